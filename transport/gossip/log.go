package gossip

import (
	"context"
	"log"
	"log/slog"
	"regexp"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// logWriter takes memberlist's log lines, one per Write, to slog.
type logWriter struct{ p *Pool }

func newLogger(p *Pool) *log.Logger { return log.New(logWriter{p}, "", 0) }

// harmless are lines that follow from how QUIC ends streams and from restarts;
// they name no fault.
var harmless = []string{
	"canceled by remote with error code 0",
	"canceled by local with error code 0",
	"close called for canceled stream",
	"timeout waiting for leave broadcast",
	"gossip has stopped",
	"transport: the endpoint is closed",
	"Failed to send ack",
}

// suspicion is the one line that says that an own probe got no answer:
// memberlist v0.6.0 shows the state of suspicion nowhere else.
var suspicion = regexp.MustCompile(`Suspect ([a-z0-9-]{1,63}) has failed, no acks received`)

// Write handles one line: "[LEVEL] memberlist: text".
func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	if m := suspicion.FindStringSubmatch(line); m != nil {
		w.p.suspected(placement.NodeID(m[1]))
	}
	level, text := slog.LevelDebug, line
	if rest, ok := strings.CutPrefix(line, "["); ok {
		name, after, _ := strings.Cut(rest, "]")
		text = strings.TrimPrefix(strings.TrimSpace(after), "memberlist: ")
		switch name {
		case "WARN":
			level = slog.LevelInfo
		case "ERR", "ERROR":
			level = slog.LevelWarn
			w.p.counts.errors.Add(1)
		}
	}
	for _, h := range harmless {
		if strings.Contains(line, h) {
			level = slog.LevelDebug
		}
	}
	w.p.cfg.Log.Log(context.Background(), level, "gossip: "+text)
	return len(b), nil
}
