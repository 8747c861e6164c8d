package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"
)

// chosen is the target that a command line and an environment lead to.
func (b *bench) chosen(args ...string) (target, error) {
	b.t.Helper()
	var got target
	var err error
	p := b.program(&bytes.Buffer{}, &bytes.Buffer{})
	app := &cli.App{Name: "x", Writer: &bytes.Buffer{}, Flags: connectionFlags(), Action: func(c *cli.Context) error {
		got, err = p.target(c)
		return nil
	}}
	if e := app.Run(append([]string{"x"}, args...)); e != nil {
		b.t.Fatal(e)
	}
	return got, err
}

func TestWhichRegion(t *testing.T) {
	fra := target{Addr: "https://fra:1", Token: "sm_fra", CA: "fra.pem"}
	ber := target{Addr: "https://ber:1", Token: "sm_ber", CA: "ber.pem"}
	env := map[string]string{"SOVMESH_ADDR": "https://env:1", "SOVMESH_TOKEN": "sm_env", "SOVMESH_CA": "env.pem"}
	fromEnv := target{Addr: "https://env:1", Token: "sm_env", CA: "env.pem"}
	both, one := map[string]target{"fra-1": fra, "ber-1": ber}, map[string]target{"fra-1": fra}
	tests := []struct {
		name     string
		contexts map[string]target
		env      map[string]string
		args     string
		want     target
		err      string
	}{
		{"nothing", nil, nil, "", target{}, "no region to talk to was named"},
		{"the only context", one, nil, "", fra, ""},
		{"two contexts, none named", both, nil, "", target{}, "no region to talk to was named"},
		{"a context by flag", both, nil, "--context ber-1", ber, ""},
		{"a context by environment", both, map[string]string{"SOVMESH_CONTEXT": "ber-1"}, "", ber, ""},
		{"the environment before the only context", one, env, "", fromEnv, ""},
		{"a flag's context before the environment", both, env, "--context ber-1", ber, ""},
		{"an address alone takes no token of a context that nobody named", one, nil, "--addr https://x:1", target{Addr: "https://x:1"}, ""},
		{"a flag over its context", both, nil, "--context ber-1 --addr https://ber-n2:1", target{Addr: "https://ber-n2:1", Token: "sm_ber", CA: "ber.pem"}, ""},
		{"a token over the environment's", nil, env, "--token t", target{Addr: "https://env:1", Token: "t", CA: "env.pem"}, ""},
		{"unknown context", both, nil, "--context ber-2", target{}, `there is no context "ber-2"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.env = tt.env
			if tt.contexts != nil {
				if _, err := addContexts(b.contexts, tt.contexts, nil); err != nil {
					t.Fatal(err)
				}
			}
			got, err := b.chosen(strings.Fields(tt.args)...)
			if errText(err) != tt.err {
				t.Fatalf("error %q, want %q", errText(err), tt.err)
			}
			if err == nil && got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestContextsAreTheirOwners(t *testing.T) {
	b := newBench(t)
	mine := target{Addr: "https://mine:1"}
	if _, err := addContexts(b.contexts, map[string]target{"fra-1": mine}, nil); err != nil {
		t.Fatal(err)
	}
	dev := target{Addr: "https://dev:1", Token: "sm_x", Owner: "dev"}
	add := map[string]target{"fra-1": dev, "ber-1": dev}
	added, err := addContexts(b.contexts, add, nil)
	if err != nil || !reflect.DeepEqual(added, map[string]string{"ber-1": "ber-1"}) {
		t.Fatalf("added %v, %v", added, err)
	}
	added, err = addContexts(b.contexts, add, devContext)
	if err != nil || !reflect.DeepEqual(added, map[string]string{"ber-1": "ber-1", "fra-1": "fra-1-dev"}) {
		t.Fatalf("added under another name %v, %v", added, err)
	}
	another := target{Addr: "https://another:1", Owner: "another"}
	added, err = addContexts(b.contexts, map[string]target{"fra-1": another}, devContext)
	if err != nil || !reflect.DeepEqual(added, map[string]string{"fra-1": "fra-1-dev2"}) {
		t.Fatalf("added under a third name %v, %v", added, err)
	}
	if err := removeContexts(b.contexts, "another"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(b.contexts)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("contexts.yaml holds tokens and has mode %v, %v", info.Mode(), err)
	}
	if err := removeContexts(b.contexts, "dev"); err != nil {
		t.Fatal(err)
	}
	c, err := readContexts(b.contexts)
	if err != nil || !reflect.DeepEqual(c.Contexts, map[string]target{"fra-1": mine}) {
		t.Errorf("%+v, %v", c.Contexts, err)
	}
}

// Many programs at once: each reads the file, adds its entry and writes it. None
// may be lost, and none may stay once all are gone, the file included.
func TestContextsOfManyAtOnce(t *testing.T) {
	b := newBench(t)
	const all = 32
	var g errgroup.Group
	for i := range all {
		g.Go(func() error {
			name := fmt.Sprintf("r%d", i)
			_, err := addContexts(b.contexts, map[string]target{name: {Addr: "https://x:1", Owner: name}}, nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if c, err := readContexts(b.contexts); err != nil || len(c.Contexts) != all {
		t.Errorf("%d of %d contexts are there, %v", len(c.Contexts), all, err)
	}
	for i := range all {
		g.Go(func() error { return removeContexts(b.contexts, fmt.Sprintf("r%d", i)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(b.contexts)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBadContexts(t *testing.T) {
	for name, tt := range map[string]struct{ file, err string }{
		"unknown key": {"contexts:\n  a: {adr: x}\n", `:2:7: there is no key "adr" in contexts.a`},
		"no mapping":  {"contexts: [a]\n", ":1:11: contexts must be a mapping, not a list"},
		"not YAML":    {"contexts: {a\n", ": not YAML: "},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := os.WriteFile(b.contexts, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := b.run("status"); r.exit != 2 || !strings.Contains(r.err, tt.err) {
				t.Errorf("exit %d, %s", r.exit, r.err)
			}
		})
	}
}

// region is a server that knows who asks and answers the rest as told.
func region(t *testing.T, b *bench, status int, body string) *[]string {
	t.Helper()
	var asked []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		if r.URL.Path == "/api/v1/whoami" {
			_, _ = w.Write([]byte(`{"region":"fra-1","mesh":"mesh.test","node":"n1","kind":"token","id":"t1","roles":["viewer"],"tenant":"acme"}`))
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	ca := b.file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	b.env = map[string]string{"SOVMESH_ADDR": s.URL, "SOVMESH_TOKEN": "sm_fra-1_x", "SOVMESH_CA": ca}
	return &asked
}

// Whoever looks at a region sees that its evidence is not what it should be.
func TestStatusSaysThatNothingIsSigned(t *testing.T) {
	for body, want := range map[string]string{
		`{"signing":{"size":9,"unsigned":3,"problem":"the disk is full"}}`:                        "HALTED, 3 leaves are not signed: the disk is full",
		`{"leader":"n2","signing":{"size":9,"at":"2020-01-01T00:00:00Z","unsigned":3}}`:           "HALTED, 3 leaves are not signed, the last was",
		`{"signing":{"size":9,"witnesses":[{"name":"w.example/w","problem":"it answers late"}]}}`: "w.example/w: it answers late",
		`{"signing":{"size":9,"witnesses":[{"name":"w.example/w","set_back":2}]}}`:                "w.example/w: set back 2 times",
		`{"ledger":{"size":9,"missing":4,"whole":1,"voters":3}}`:                                  "4 of 9 leaves are missing on this node, 1 of 3 voters have all",
	} {
		b := newBench(t)
		region(t, b, http.StatusOK, body)
		if r := b.run("status"); r.exit != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%s: exit %d, %s%s", body, r.exit, r.out, r.err)
		}
	}
}

func TestServerProblems(t *testing.T) {
	for code, tt := range map[string]struct{ status, exit int }{
		"role.missing": {403, 40}, "token.expired": {401, 40}, "residency.refused": {403, 20}, "leader.unknown": {503, 30},
		"capacity.none": {503, 10}, "capacity.never": {409, 11}, "input.unknown-name": {404, 2}, "queue.full": {429, 1},
		// Who may, and with what: the credential is good for something else.
		"invite.spent": {401, 40}, "invite.expired": {401, 40}, "invite.name": {401, 40}, "token.spent": {401, 40}, "token.name": {401, 40},
		// What was typed is wrong, whoever types it.
		"invite.fingerprint": {400, 2}, "peer.fingerprint": {400, 2}, "peer.answers": {409, 2}, "token.unknown": {404, 2}, "token.role": {400, 2},
		"tenant.name": {400, 2}, "law.unknown-pack": {400, 2},
		// Whether it is lawful there is not known.
		"law.not-held": {403, 30}, "peer.unknown": {503, 30}, "peer.impostor": {502, 1},
	} {
		b := newBench(t)
		region(t, b, tt.status, `{"code":"`+code+`","detail":"what and why","hint":"what to do"}`)
		r := b.run("node", "cordon", "n1", "--json")
		want := `{"error":{"code":"` + code + `","message":"what and why","hint":"what to do"}}` + "\n"
		if r.exit != tt.exit || r.out != want {
			t.Errorf("%s: exit %d, want %d; %s", code, r.exit, tt.exit, r.out)
		}
		if !strings.HasPrefix(r.err, "target: region fra-1 (mesh.test)   as: token t1 (viewer), tenant acme\n") {
			t.Errorf("%s: a write did not say its target first: %q", code, r.err)
		}
	}
}

func TestCheckDocumentAndExit(t *testing.T) {
	const job = "kind: process\nresidency: EEA\ncommand: [x]\n"
	for answer, want := range map[string]int{"placeable": 0, "no-capacity": 10, "no-hardware": 11, "not-lawful": 20, "unknown": 30} {
		b := newBench(t)
		asked := region(t, b, 200, `{"answer":"`+answer+`","reason":"why","residency":"EEA","regions":[],"law_pack":"p","as_of":"2026-11-21"}`)
		r := b.run("job", "check", b.file("job.yaml", job), "--json")
		if r.exit != want || !strings.Contains(r.out, `"answer": "`+answer+`"`) || strings.Contains(r.out, `"error"`) {
			t.Errorf("%s: exit %d, want %d; %s", answer, r.exit, want, r.out)
		}
		for _, a := range *asked {
			if a != "POST /api/v1/jobs/check" {
				t.Errorf("%s: a dry run asked for %s", answer, a)
			}
		}
	}
}

// Without a terminal nothing is asked; with one, anything but yes changes
// nothing.
func TestConfirm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		asks   bool
		typed  string
		args   []string
		exit   int
		change bool
	}{
		{"no terminal", false, "", nil, 0, true},
		{"yes", true, "y\n", nil, 0, true},
		{"no", true, "n\n", nil, 1, false},
		{"nothing", true, "\n", nil, 1, false},
		{"--yes", true, "", []string{"--yes"}, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			asked := region(t, b, 204, "")
			b.in = tt.typed
			var out, errs bytes.Buffer
			p := b.program(&out, &errs)
			p.asks = tt.asks
			exit := p.run(t.Context(), append([]string{"node", "remove", "n1"}, tt.args...))
			changed := strings.Contains(strings.Join(*asked, " "), "DELETE /api/v1/nodes/n1")
			if exit != tt.exit || changed != tt.change {
				t.Errorf("exit %d, changed %v; stderr %s", exit, changed, errs.String())
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	r := newBench(t).run("status", "--addr", "https://127.0.0.1:1", "--json")
	if r.exit != 30 || !strings.Contains(r.out, `"code":"peer.unknown"`) {
		t.Errorf("exit %d, %s", r.exit, r.out)
	}
}
