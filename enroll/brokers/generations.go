package brokers

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Generations keeps the certificates and keys of one broker so that the pair
// in use is complete and matching at every instant, also when the program or
// the machine dies between any two steps.
//
//	DIR/broker -> .broker/2-5f3a90c1      what the broker reads
//	DIR/.broker/1-0c77d1e2/               the generation before, for Rollback
//	DIR/.broker/2-5f3a90c1/               certificate.pem, key.pem
//	DIR/.broker/staged-3-b81e6f04.pem     a key whose certificate is awaited
//
// The numbers grow; the digits after them are the beginning of the SHA-256 of
// the public key. A folder with a number is complete from the moment it has
// that name, and is never changed. DIR may be shared with other files.
//
// Methods are safe for concurrent use within one program. Two programs must not
// work on one folder.
type Generations struct {
	dir  string // DIR, absolute
	disk disk
	now  func() time.Time
	mu   sync.Mutex
	gid  int // of the group that may read the keys; 0 for none
}

const (
	linkName     = "broker"
	storeName    = ".broker"
	stagedPrefix = "staged-"
	stagedSuffix = ".pem"
	partPrefix   = "new-"
	maxStaged    = 16 // keys that wait for a certificate; the oldest go first
)

// OpenGenerations opens the generations in a folder, which it makes if it is
// absent. The clock may be nil.
func OpenGenerations(dir string, now func() time.Time) (*Generations, error) {
	return openGenerations(dir, now, osDisk{})
}

func openGenerations(dir string, now func() time.Time, d disk) (*Generations, error) {
	if now == nil {
		now = time.Now
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open generations: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open generations: %w", err)
	}
	if err := d.mkdir(filepath.Join(dir, storeName)); err != nil {
		return nil, fmt.Errorf("open generations: %w", err)
	}
	if err := d.syncDir(dir); err != nil {
		return nil, fmt.Errorf("open generations: %w", err)
	}
	info, err := os.Lstat(filepath.Join(dir, linkName))
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return nil, fmt.Errorf("open generations: %s is not a symbolic link; move it away first", filepath.Join(dir, linkName))
	}
	return &Generations{dir: dir, disk: d, now: now}, nil
}

// ShareKeys lets the members of a group, not 0, read the keys of the generations
// that are installed from now on: those of a broker that runs as another user.
// Staged keys stay with their owner.
func (g *Generations) ShareKeys(gid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gid = gid
}

// Install makes the chain (DER, leaf first) and its staged key the active
// generation, then calls reload with the new pair. When reload fails, the
// previous generation becomes active again, reload is called once more for it
// if there is one, and the error is returned.
//
// With the chain that is already active it only calls reload. A chain is
// refused when no staged key matches its leaf, when it does not link, or when a
// certificate in it is not valid now.
func (g *Generations) Install(chain [][]byte, reload func(*Pair) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.install(chain, reload); err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	return nil
}

func (g *Generations) install(chain [][]byte, reload func(*Pair) error) error {
	certificates, err := parseChain(chain, g.now())
	if err != nil {
		return err
	}
	before, err := g.current()
	if err != nil {
		return err
	}
	if before.pair != nil && before.pair.is(certificates) {
		return reload(before.pair)
	}
	found, err := g.scan(before)
	if err != nil {
		return err
	}
	name, number, err := g.complete(certificates, found)
	if err != nil {
		return err
	}
	// What is neither the old nor the new generation goes before the swap: the
	// older of the two that are left is then always the one to go back to.
	if err := g.prune(found, before.name, name); err != nil {
		return err
	}
	if err := g.activate(name, before, reload); err != nil {
		return err
	}
	g.dropStaged(found, number)
	return nil
}

// complete returns the name of the generation for a chain: the one that an
// interrupted install left behind, or a new one. The number is that of the
// staged key.
func (g *Generations) complete(chain []*x509.Certificate, found *contents) (name string, number int, err error) {
	staged, key, err := g.stagedKey(chain[0], found)
	if err != nil {
		return "", 0, err
	}
	for _, entry := range found.complete {
		if pair, err := loadPair(g.path(entry.name)); err == nil && pair.is(chain) && entry.number > found.active {
			return entry.name, staged.number, nil
		}
	}
	if key == nil {
		return "", 0, fmt.Errorf("no staged key matches the certificate %x: request a certificate from this broker first", chain[0].SerialNumber)
	}
	id, err := keyID(chain[0].PublicKey)
	if err != nil {
		return "", 0, err
	}
	name = strconv.Itoa(found.last+1) + "-" + id
	part := g.path(partPrefix + name)
	if err := g.writePart(part, key, chain); err != nil {
		return "", 0, err
	}
	if _, err := loadPair(part); err != nil { // what is read back is what counts
		return "", 0, err
	}
	if err := g.disk.rename(part, g.path(name)); err != nil {
		return "", 0, fmt.Errorf("name generation: %w", err)
	}
	if err := g.disk.syncDir(g.path("")); err != nil {
		return "", 0, fmt.Errorf("sync generations: %w", err)
	}
	return name, staged.number, nil
}

// writePart writes a generation under a name that no link points to.
func (g *Generations) writePart(part string, key []byte, chain []*x509.Certificate) error {
	if err := g.disk.removeAll(part); err != nil {
		return fmt.Errorf("remove leftover: %w", err)
	}
	if err := g.disk.mkdir(part); err != nil {
		return fmt.Errorf("make generation: %w", err)
	}
	if err := g.disk.create(filepath.Join(part, KeyFile), key, 0o600); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if g.gid != 0 {
		if err := g.disk.share(filepath.Join(part, KeyFile), g.gid); err != nil {
			return fmt.Errorf("share key with group %d: %w", g.gid, err)
		}
	}
	if err := g.disk.create(filepath.Join(part, CertificateFile), encodeChain(chain), 0o644); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	if err := g.disk.syncDir(part); err != nil {
		return fmt.Errorf("sync generation: %w", err)
	}
	return nil
}

// activate swaps the link and reloads, and swaps it back when that fails.
func (g *Generations) activate(name string, before current, reload func(*Pair) error) error {
	pair, err := loadPair(g.path(name))
	if err != nil {
		return err
	}
	if err := g.swap(name); err != nil {
		return errors.Join(err, g.restore(before))
	}
	if err = reload(pair); err == nil {
		return nil
	}
	err = fmt.Errorf("reload: %w", err)
	if back := g.restore(before); back != nil {
		return errors.Join(err, fmt.Errorf("go back: %w", back))
	}
	if before.pair != nil {
		if again := reload(before.pair); again != nil {
			return errors.Join(err, fmt.Errorf("reload the previous certificate: %w", again))
		}
	}
	return err
}

func (g *Generations) swap(name string) error {
	return replaceLink(g.disk, filepath.Join(storeName, name), filepath.Join(g.dir, linkName))
}

// restore puts the link back. It is written again even if it looks right: a
// failed swap says nothing about what is on stable storage.
func (g *Generations) restore(before current) error {
	if before.name == "" {
		return g.disk.removeAll(filepath.Join(g.dir, linkName))
	}
	return g.swap(before.name)
}

// Rollback makes the generation before the active one active, then calls reload
// with it, as Install does. It succeeds without a change when the active
// generation is the one that a rollback already went back to. A generation
// whose certificate has expired is not gone back to.
func (g *Generations) Rollback(reload func(*Pair) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.rollback(reload); err != nil {
		return fmt.Errorf("roll back certificate: %w", err)
	}
	return nil
}

func (g *Generations) rollback(reload func(*Pair) error) error {
	before, err := g.current()
	if err != nil {
		return err
	}
	found, err := g.scan(before)
	if err != nil {
		return err
	}
	abandoned := false
	for _, entry := range slices.Backward(found.complete) {
		switch {
		case entry.number > found.active:
			abandoned = true
		case entry.number < found.active:
			pair, err := loadPair(g.path(entry.name))
			if err != nil {
				return err
			}
			if g.now().After(pair.Leaf.NotAfter) {
				return fmt.Errorf("the previous certificate expired at %s", stamp(pair.Leaf.NotAfter))
			}
			return g.activate(entry.name, before, reload)
		}
	}
	if abandoned && before.pair != nil {
		return reload(before.pair)
	}
	return fmt.Errorf("%w: there is none before the active one", ErrNoGeneration)
}

// Active reads the active pair. It returns an error for which
// errors.Is(err, ErrNoGeneration) holds when nothing was installed yet.
func (g *Generations) Active() (*Pair, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, err := g.current()
	switch {
	case err != nil:
		return nil, fmt.Errorf("active certificate: %w", err)
	case now.name == "":
		return nil, fmt.Errorf("active certificate: %w", ErrNoGeneration)
	case now.pair == nil:
		return nil, fmt.Errorf("active certificate: %w", now.err)
	}
	return now.pair, nil
}

// current is where the link points. A generation that somebody damaged has a
// name and no pair; an install replaces it.
type current struct {
	name string // "" when there is no link
	pair *Pair
	err  error // why there is a name but no pair
}

// current reads the link once, so that both files come from one generation.
func (g *Generations) current() (current, error) {
	target, err := os.Readlink(filepath.Join(g.dir, linkName))
	if errors.Is(err, fs.ErrNotExist) {
		return current{}, nil
	}
	if err != nil {
		return current{}, err
	}
	if filepath.Dir(target) != storeName {
		return current{}, fmt.Errorf("%s points to %q, outside of %s", linkName, target, storeName)
	}
	name := filepath.Base(target)
	pair, err := loadPair(g.path(name))
	return current{name: name, pair: pair, err: err}, nil
}

func (g *Generations) path(name string) string { return filepath.Join(g.dir, storeName, name) }
