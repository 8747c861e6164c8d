package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// Row is one promise and what was measured.
type Row struct {
	Name     string             `json:"name"`
	Nomad    string             `json:"nomad"` // on another day, on a machine like it
	Reach    string             `json:"reach"`
	Aim      string             `json:"aim,omitempty"`
	Measured string             `json:"measured"`
	Reached  bool               `json:"reached"`
	Figures  map[string]float64 `json:"figures"` // named with their unit
	Note     string             `json:"note"`
}

type report struct {
	Began   time.Time `json:"began"`
	Before  string    `json:"machine_before"`
	After   string    `json:"machine_after"`
	Rows    []Row     `json:"rows"`
	Sources string    `json:"-"`
}

func newReport() *report {
	return &report{Began: time.Now().UTC().Truncate(time.Second), Before: agents.Machine()}
}

func (r *report) add(row Row) {
	r.Rows = append(r.Rows, row)
	say("%s: %s", row.Name, row.Measured)
}

func (r *report) finish() { r.After = agents.Machine() }

func (r *report) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// text is the table, in Markdown.
func (r *report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sovmesh bench, %s; before: %s; after: %s\n", r.Began.Format(time.RFC3339), r.Before, r.After)
	b.WriteString("three agent processes on loopback, mutual TLS, data synced to disk; medians\n\n")
	b.WriteString("| | Nomad, a machine like it | reach | aim | here | reached |\n|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		yes := "no"
		if row.Reached {
			yes = "yes"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", row.Name, row.Nomad, row.Reach, row.Aim, row.Measured, yes)
	}
	b.WriteString("\nhow each was taken:\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "- %s: %s\n", row.Name, row.Note)
	}
	return b.String()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
