package consensus

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// sink hands what raft says to slog.
type sink struct {
	log  *slog.Logger
	part string
}

// hclogger is a logger for raft's libraries that ends in log.
func hclogger(log *slog.Logger, part string) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Debug})
	l.RegisterSink(sink{log, part})
	return l
}

// harmless are lines of streams that ended as streams end.
func harmless(msg string, args []any) bool {
	if msg != "failed to decode incoming command" && msg != "failed to accept connection" && msg != "failed to flush response" {
		return false
	}
	for _, a := range args {
		if err, ok := a.(error); ok {
			text := err.Error()
			if strings.Contains(text, "cancel") || strings.Contains(text, "closed") || strings.Contains(text, "EOF") {
				return true
			}
		}
	}
	return msg == "failed to accept connection"
}

func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case harmless(msg, args):
	case level >= hclog.Error:
		to = slog.LevelError
	case level == hclog.Warn:
		to = slog.LevelWarn
	}
	s.log.Log(context.Background(), to, s.part+": "+msg, args...)
}
