package embedded

import (
	"context"
	"log/slog"
	"slices"
)

// quiet returns a logger for the MQTT server that writes to ours: what it calls
// an error as a warning, all else for debugging only, and without the packets
// that it likes to add, which hold what devices say.
func quiet(log *slog.Logger) *slog.Logger {
	return slog.New(quietHandler{log.Handler()}).With("component", "mqtt")
}

type quietHandler struct{ next slog.Handler }

func quietLevel(level slog.Level) slog.Level {
	if level >= slog.LevelError {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Enabled implements [slog.Handler].
func (h quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, quietLevel(level))
}

// Handle implements [slog.Handler].
func (h quietHandler) Handle(ctx context.Context, record slog.Record) error {
	quieter := slog.NewRecord(record.Time, quietLevel(record.Level), record.Message, record.PC)
	record.Attrs(func(attribute slog.Attr) bool {
		if !isPacket(attribute) {
			quieter.AddAttrs(attribute)
		}
		return true
	})
	return h.next.Handle(ctx, quieter)
}

// WithAttrs implements [slog.Handler].
func (h quietHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return quietHandler{h.next.WithAttrs(slices.DeleteFunc(slices.Clone(attributes), isPacket))}
}

// WithGroup implements [slog.Handler].
func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.next.WithGroup(name)}
}

func isPacket(attribute slog.Attr) bool {
	switch attribute.Key {
	case "pk", "packet", "will":
		return true
	}
	return false
}
