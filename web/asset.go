package web

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"

	"github.com/go-chi/chi/v5"
)

// An asset is a file of the browser's: the sheet, the script, the icon. Its
// URL carries its hash, so that it can be kept for good.
type asset struct {
	url       string
	hash      string
	mediaType string
	body      []byte
}

// readAssets reads the static files, which are part of the program.
func readAssets(static fs.FS) map[string]asset {
	entries, err := fs.ReadDir(static, ".")
	if err != nil {
		panic(err)
	}
	assets := map[string]asset{}
	for _, e := range entries {
		body, err := fs.ReadFile(static, e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		hash := hex.EncodeToString(sum[:8])
		assets[e.Name()] = asset{
			url: "/static/" + e.Name() + "?v=" + hash, hash: hash, body: body,
			mediaType: mime.TypeByExtension(path.Ext(e.Name())),
		}
	}
	return assets
}

func (s *Site) getAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := s.assets[chi.URLParam(r, "file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.mediaType)
	h.Set("ETag", strconv.Quote(a.hash))
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.hash {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if r.Header.Get("If-None-Match") == strconv.Quote(a.hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body) // the client is gone: nobody is left to tell
	}
}
