package brokers

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// An entry is a staged key or a complete generation.
type entry struct {
	name   string
	number int
}

// contents is what the folder of generations holds, each slice by number.
type contents struct {
	complete, staged []entry
	parts            []string // leftovers of interrupted work
	last             int      // the largest number of all
	active           int      // the number of the active generation, 0 for none
}

func (g *Generations) scan(now current) (*contents, error) {
	files, err := os.ReadDir(g.path(""))
	if err != nil {
		return nil, err
	}
	found := new(contents)
	for _, file := range files {
		name := file.Name()
		bare, staged := strings.CutPrefix(name, stagedPrefix)
		digits, _, _ := strings.Cut(bare, "-")
		number, err := strconv.Atoi(digits)
		switch {
		case strings.HasPrefix(name, partPrefix) || strings.HasSuffix(name, ".new"):
			found.parts = append(found.parts, name)
			continue
		case err != nil || number < 1:
			continue // not ours
		case staged:
			found.staged = append(found.staged, entry{name, number})
		default:
			found.complete = append(found.complete, entry{name, number})
		}
		found.last = max(found.last, number)
	}
	byNumber := func(a, b entry) int { return a.number - b.number }
	slices.SortFunc(found.complete, byNumber)
	slices.SortFunc(found.staged, byNumber)
	for _, entry := range found.complete {
		if entry.name == now.name {
			found.active = entry.number
		}
	}
	return found, nil
}

// prune removes all generations but these, and leftovers.
func (g *Generations) prune(found *contents, keep ...string) error {
	remove := found.parts
	for _, entry := range found.complete {
		if !slices.Contains(keep, entry.name) {
			remove = append(remove, entry.name)
		}
	}
	for _, name := range remove {
		if err := g.disk.removeAll(g.path(name)); err != nil {
			return fmt.Errorf("remove old generation: %w", err)
		}
	}
	return nil
}
