package mosquitto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

const (
	maxLog  = 16 << 20 // size from which on a log is renamed at a reload
	maxLine = 64 << 10
	tail    = 64 // bytes before the position that are looked at again
)

// A follower reads the log as it grows, and goes on where it was after the log
// was renamed, and after a restart of the program.
//
// Mosquitto writes to a renamed log until its next SIGHUP. The old file is
// therefore left only when the new one has content, and after it was read to
// its end once more.
type follower struct {
	path  string // of the log
	notes string // of the position and what was known there

	mu      sync.Mutex
	file    *os.File
	at      position
	partial []byte   // the beginning of a line, read already
	queue   []string // files that come after this one, but for the one in use
	tracker *tracker
}

// A position is where in which file the follower is.
type position struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"` // of the first line that was not taken
	Tail   []byte `json:"tail"`   // the bytes before it
}

// notes is what is written down when a file was left, and at the end.
type notes struct {
	Position position `json:"position"`
	Known    *tracker `json:"known"`
}

func newFollower(path, notes string) *follower {
	return &follower{path: path, notes: notes, tracker: newTracker()}
}

// read takes all lines that are there. errors.Is(err, fs.ErrNotExist) when there
// is no log.
func (f *follower) read() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.readAll(); err != nil {
		return fmt.Errorf("read Mosquitto's log: %w", err)
	}
	return nil
}

func (f *follower) readAll() error {
	if f.file == nil {
		if err := f.resume(); err != nil {
			return err
		}
	}
	for {
		if err := f.drain(); err != nil {
			return err
		}
		next, err := f.next()
		if err != nil || next == nil {
			return err
		}
		err = f.drain() // what came before the other file was begun
		if err != nil {
			next.Close()
			return err
		}
		if err := f.change(next, 0); err != nil {
			return err
		}
		if err := f.write(); err != nil {
			return err
		}
	}
}

// next returns the file after this one, nil when this is the one that Mosquitto
// writes to.
func (f *follower) next() (*os.File, error) {
	for len(f.queue) > 0 {
		path := f.queue[0]
		f.queue = f.queue[1:]
		if file, err := openLog(path); err == nil {
			return file, nil
		} // it was renamed again, or removed
	}
	file, err := openLog(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // renamed, and not begun anew
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || same(info, f.at) || info.Size() == 0 {
		file.Close()
		return nil, err
	}
	return file, nil
}

// resume finds the file to go on with: where the notes say, or else at the
// beginning of the oldest log.
func (f *follower) resume() error {
	files, err := f.files()
	if err != nil {
		return err
	}
	var kept notes
	if data, err := os.ReadFile(f.notes); err == nil && json.Unmarshal(data, &kept) == nil && kept.Known.sound() {
		for i, path := range files {
			file, err := openLog(path)
			if err != nil {
				continue
			}
			info, err := file.Stat()
			if err != nil || !same(info, kept.Position) || !kept.Position.matches(file) {
				file.Close()
				continue
			}
			f.tracker = kept.Known
			f.queue = files[i+1 : max(i+1, len(files)-1)]
			return f.change(file, kept.Position.Offset)
		}
	}
	file, err := openLog(files[0])
	if err != nil {
		return err
	}
	f.queue = files[1:max(1, len(files)-1)]
	return f.change(file, 0)
}

// files returns the logs, oldest first, the one in use last. Compressed ones
// are none.
func (f *follower) files() ([]string, error) {
	found, err := filepath.Glob(f.path + ".*")
	if err != nil {
		return nil, err
	}
	type old struct {
		path string
		info fs.FileInfo
	}
	var all []old
	for _, path := range append(found, f.path) {
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || strings.HasSuffix(path, ".gz") || strings.HasSuffix(path, ".xz") {
			continue
		}
		all = append(all, old{path, info})
	}
	slices.SortStableFunc(all, func(a, b old) int {
		if (a.path == f.path) != (b.path == f.path) {
			return map[bool]int{true: 1, false: -1}[a.path == f.path]
		}
		return a.info.ModTime().Compare(b.info.ModTime())
	})
	if len(all) == 0 {
		return nil, &fs.PathError{Op: "open", Path: f.path, Err: fs.ErrNotExist}
	}
	paths := make([]string, len(all))
	for i, log := range all {
		paths[i] = log.path
	}
	return paths, nil
}

// change goes over to another file.
func (f *follower) change(file *os.File, offset int64) error {
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	if f.file != nil {
		f.file.Close()
	}
	f.file, f.partial = file, nil
	f.at = position{Offset: offset}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.at.Device, f.at.Inode = uint64(stat.Dev), stat.Ino
	}
	return nil
}

// drain takes the lines up to the end of the file. A file that was truncated is
// taken from its beginning: what was live is thought to be so still.
func (f *follower) drain() error {
	if !f.at.matches(f.file) {
		f.tracker.Whole = false
		f.at.Offset, f.at.Tail, f.partial = 0, nil, nil
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := f.file.ReadAt(buf, f.at.Offset+int64(len(f.partial)))
		f.take(buf[:n])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// take takes bytes that were read.
func (f *follower) take(data []byte) {
	f.partial = append(f.partial, data...)
	end := bytes.LastIndexByte(f.partial, '\n') + 1
	if end == 0 && len(f.partial) > maxLine {
		end = len(f.partial)
	}
	if end == 0 {
		return
	}
	whole := f.partial[:end]
	for line := range bytes.Lines(whole) {
		f.tracker.line(string(bytes.TrimRight(line, "\r\n")))
	}
	f.at.Offset += int64(end)
	f.at.Tail = slices.Clone(whole[max(0, end-tail):])
	f.partial = append(f.partial[:0:0], f.partial[end:]...)
}

// matches reports whether a file has the bytes before the position.
func (p position) matches(file *os.File) bool {
	if len(p.Tail) == 0 {
		return true
	}
	there := make([]byte, len(p.Tail))
	n, _ := file.ReadAt(there, p.Offset-int64(len(p.Tail)))
	return bytes.Equal(there[:n], p.Tail)
}

func same(info fs.FileInfo, p position) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(stat.Dev) == p.Device && stat.Ino == p.Inode
}

// openLog opens a log, and nothing else that Mosquitto's user might have put in
// its place.
func openLog(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// rotate renames a log that has grown too large. Mosquitto begins another one
// with the SIGHUP that follows.
func (f *follower) rotate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.Offset < maxLog || f.write() != nil {
		return
	}
	_ = os.Rename(f.path, f.path+".1") // else it grows on, until the next reload
}

// write notes the position down.
func (f *follower) write() error {
	data, err := json.Marshal(notes{f.at, f.tracker})
	if err != nil {
		return err
	}
	return brokers.WriteFile(f.notes, data, 0o600)
}

func (f *follower) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.write()
	f.file.Close()
	f.file = nil
	return err
}

// reloads returns how often the log told of a reload.
func (f *follower) reloads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tracker.reloads
}

// complaints returns the errors since the last reload.
func (f *follower) complaints() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tracker.complaints)
}

// begun returns when the Mosquitto of the log started, if that was seen.
func (f *follower) begun() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tracker.Begun
}

// sessions returns the live sessions, oldest first, and whether these are all.
func (f *follower) sessions() (live []session, whole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.tracker.sorted() {
		live = append(live, *s)
	}
	return live, f.tracker.Whole
}
