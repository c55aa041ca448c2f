package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// bundleFiles returns the files of a trust bundle: path itself, or the
// certificate files in the folder path. openssl rehash names them HASH.0.
func bundleFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && slices.Contains([]string{".pem", ".crt", ".cer", ".der", ".0"}, ext) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, nil
}

// maxInputFile bounds the files that are read, in bytes.
const maxInputFile = 4 << 20

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var size int64
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	return readAtMost(f, size, limit)
}

// readAtMost reads r, which should have size bytes, to its end, which must come
// within limit bytes.
func readAtMost(r io.Reader, size, limit int64) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(max(size, 0), limit)) + bytes.MinRead)
	_, err := b.ReadFrom(io.LimitReader(r, limit+1))
	if err == nil && int64(b.Len()) > limit {
		err = fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return b.Bytes(), err
}

// readCertificates returns the certificates in a PEM or DER file; none is no
// error, one that cannot be parsed is.
func readCertificates(path string) ([]*x509.Certificate, error) {
	blocks, err := readBlocks(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, der := range blocks {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("not a certificate: %w", err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// readBlocks returns the DER of the PEM blocks of a type in a file, or the file
// itself when it is DER.
func readBlocks(path, kind string) ([][]byte, error) {
	data, err := readBounded(path, maxInputFile)
	if err != nil {
		return nil, err
	}
	return derBlocks(data, kind), nil
}

// derBlocks returns the DER of the PEM blocks of a type, or data itself when it
// is not PEM.
func derBlocks(data []byte, kind string) (blocks [][]byte) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		if len(bytes.TrimSpace(data)) == 0 {
			return nil
		}
		return [][]byte{data}
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == kind {
			blocks = append(blocks, block.Bytes)
		}
	}
	return blocks
}

// cause strips the path that os errors repeat.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
