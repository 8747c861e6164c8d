package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestExitCodes(t *testing.T) {
	for code, want := range map[string]int{
		"capacity.none": 10, "capacity.never": 11, "quota.never": 11,
		"residency.never": 20, "residency.refused": 20, "residency.misdirected": 20,
		"peer.unknown": 30, "leader.unknown": 30,
		"token.missing": 40, "token.invalid": 40, "token.foreign": 40, "token.expired": 40, "role.missing": 40, "role.foreign": 40, "residency.any": 40,
		"input.usage": 2, "input.job": 2, "input.file": 2, "input.sites": 2, "input.date": 2, "input.config": 2, "input.code": 2,
		"tag.syntax": 2, "tag.unknown-place": 2, "tag.scope": 2, "law.pack": 2, "residency_header_missing": 2, "residency_header_mismatch": 2,
		"internal": 1, "queue.full": 1, "peer.untrusted": 1, "agent.failed": 1, "listen.taken": 1,
	} {
		if got := exitOf(fmt.Errorf("wrapped: %w", &api.Problem{Code: code})); got != want {
			t.Errorf("%s: exit %d, want %d", code, got, want)
		}
	}
	if got := exitOf(errors.New("anything")); got != 1 {
		t.Errorf("an error without a code: exit %d, want 1", got)
	}
	if got := exitOf(fmt.Errorf("wait: %w", context.Canceled)); got != 130 {
		t.Errorf("interrupted: exit %d, want 130", got)
	}
}

func TestCheckAnswers(t *testing.T) {
	for answer, want := range map[string]int{
		api.CheckPlaceable: 0, api.CheckNoCapacity: 10, api.CheckNoHardware: 11, api.CheckOverLimit: 11, api.CheckUnlawful: 20, api.CheckUnknown: 30, "something newer": 1,
	} {
		if got := exitOf(checkOutcome(&api.CheckReport{Answer: answer, Reason: "why"})); got != want {
			t.Errorf("%s: exit %d, want %d", answer, got, want)
		}
	}
}

func TestVerdictsToExit(t *testing.T) {
	p, r, u := residency.Permitted, residency.Refused, residency.Unknown
	for _, tt := range []struct {
		verdicts []residency.Verdict
		want     int
	}{{[]residency.Verdict{r, u, p}, 0}, {[]residency.Verdict{r, r}, 20}, {[]residency.Verdict{r, u}, 30}, {[]residency.Verdict{u}, 30}} {
		var d checkDocument
		for _, v := range tt.verdicts {
			d.Sites = append(d.Sites, siteVerdict{Verdict: v})
		}
		if got := exitOf(d.outcome()); got != tt.want {
			t.Errorf("%v: exit %d, want %d", tt.verdicts, got, tt.want)
		}
	}
}

func TestJobVerdict(t *testing.T) {
	code := 3
	for _, tt := range []struct {
		job  placement.Job
		want int
		text string
	}{
		{placement.Job{Status: placement.JobComplete}, 0, ""},
		{placement.Job{Status: placement.JobRunning, Spec: placement.JobSpec{Type: placement.TypeService}}, 0, ""},
		{placement.Job{ID: "j", Status: placement.JobFailed, ExitCode: &code}, 1, "job j: failed, exit code 3"},
		{placement.Job{ID: "j", Status: placement.JobStopped, Reason: "by its owner"}, 1, "job j: stopped, by its owner"},
		{placement.Job{ID: "j", Status: placement.JobLost}, 1, "job j: lost"},
	} {
		err := (&waiter{job: &tt.job}).verdict()
		if exitOf(err) != tt.want || errText(err) != tt.text {
			t.Errorf("%s: exit %d %q, want %d %q", tt.job.Status, exitOf(err), errText(err), tt.want, tt.text)
		}
	}
}

func TestErrorsAsJSON(t *testing.T) {
	for _, tt := range []struct{ args, code string }{
		{"residency check Europe --sites testdata/mesh.json --json", "tag.unknown-place"},
		{"residency check EU --sites nowhere.json --json", "input.file"},
		{"residency check EU --sites testdata/mesh.json --as-of tomorrow --json", "input.date"},
		{"--json residency chekc", "input.usage"},
		{"status --json", "input.usage"},
		{"status --context nobody --json", "input.context"},
		{"status --addr http://h:1 --json", "input.usage"},
	} {
		r := newBench(t).run(strings.Fields(tt.args)...)
		var doc struct {
			Error struct{ Code, Message, Hint string }
		}
		if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
			t.Errorf("%s: %v in %q", tt.args, err, r.out)
			continue
		}
		if doc.Error.Code != tt.code || doc.Error.Message == "" || doc.Error.Hint == "" || r.exit != 2 {
			t.Errorf("%s: exit %d, %+v; want code %s", tt.args, r.exit, doc.Error, tt.code)
		}
		if lines := strings.Split(strings.TrimSpace(r.err), "\n"); len(lines) != 2 {
			t.Errorf("%s: stderr has %d lines, want what and why, and what to do: %q", tt.args, len(lines), r.err)
		}
	}
}

// What a server says must not move the cursor of a person's terminal.
func TestControlCharactersAreShown(t *testing.T) {
	b := newBench(t)
	if r := b.run("residency", "check", "EU\x1b[2J", "--sites", "testdata/mesh.json"); strings.Contains(r.err+r.out, "\x1b") {
		t.Errorf("an escape reached the terminal: %q", r.err)
	}
	if got := clean("a\x1b[31m\nb"); got != `a\x1b[31m\nb` {
		t.Errorf("clean: %q", got)
	}
}
