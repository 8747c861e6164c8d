package main

import (
	"strings"
	"testing"
)

// Every door that a person types at gets garbage and says what to do.
func TestBadInput(t *testing.T) {
	long := strings.Repeat("EU,", 400) + "EU"
	tests := []struct {
		name string
		args []string
		err  string // the first line of stderr, without the program's name
	}{
		{"no tag", []string{"residency", "check", "--sites", "testdata/mesh.json"}, "TAG is missing"},
		{"empty tag", []string{"residency", "check", "", "--sites", "testdata/mesh.json"}, "the tag is empty"},
		{"blank in a tag", []string{"residency", "check", "EU US", "--sites", "testdata/mesh.json"}, "expected a comma, found a blank inside an item (column 3)"},
		{"unquoted tag", []string{"residency", "check", "EEA,", "!HU", "--sites", "testdata/mesh.json"}, `there is an argument too many: "!HU"`},
		{"only denials", []string{"residency", "check", "!US", "--sites", "testdata/mesh.json"}, "the tag only denies: at least one item must stand without ! (column 1)"},
		{"oversized tag", []string{"residency", "check", long, "--sites", "testdata/mesh.json"}, "the tag is too long: 1202 bytes; the most is 1024"},
		{"a lone dash is a tag", []string{"residency", "check", "-", "--sites", "testdata/mesh.json"}, `"-" is not a place that this law pack knows (column 1)`},
		{"bad tag without a mesh", []string{"residency", "check", "Europe"}, `"Europe" is not a place that a tag can name: not a legal territory; a general "Europe" region at one provider includes London and Zurich (column 1)`},
		{"contradiction", []string{"residency", "check", "@FILE", "--data", "personal", "--sites", "testdata/mesh.json", "residency: {allow: [EU], data: none}"}, ""},
		{"unknown data", []string{"residency", "check", "EU", "--data", "secret", "--sites", "testdata/mesh.json"}, ""},
		{"a day that is none", []string{"residency", "explain", "EU", "--as-of", "2026-02-30"}, `"2026-02-30" is not a day`},
		{"explain without tag", []string{"residency", "explain"}, "TAG is missing"},
		{"no shell", []string{"completion", "powershell"}, `there is no completion for "powershell"`},
		{"canary address", []string{"canary", "--listen", "8000"}, `"8000" is no address to listen on`},
		{"canary port", []string{"canary", "--listen", "127.0.0.1:99999"}, `"127.0.0.1:99999" is no address to listen on`},
		{"bad duration", []string{"node", "drain", "n1", "--deadline", "soon"}, `--deadline cannot be "soon"`},
		{"negative deadline", []string{"node", "drain", "n1", "--deadline=-1h"}, "--deadline cannot be -1h0m0s"},
		{"bad rule", []string{"node", "drain", "n1", "--on-deadline", "kill"}, `--on-deadline cannot be "kill"`},
		{"plan and wait", []string{"node", "drain", "n1", "--plan", "--wait"}, "--plan and --wait stand together"},
		{"node name", []string{"node", "token", "create", "--name", "N_1"}, `no node can be called "N_1"`},
		{"no role", []string{"token", "create"}, "a token needs a role"},
		{"unknown role", []string{"token", "create", "--role", "root"}, `there is no role "root"`},
		{"quota", []string{"tenant", "set", "acme", "--quota", "gpu=4"}, `--quota cannot be "gpu=4"`},
		{"tenant name", []string{"tenant", "set", "A/B"}, `no tenant can be called "A/B"`},
		{"tenant tag", []string{"tenant", "set", "acme", "--residency", "EUU"}, ""},
		{"no code", []string{"region", "join"}, "there is no code"},
		{"garbage code", []string{"region", "join", "--code", "hello", "--confirm-fingerprint", "x"}, ""},
		{"no fingerprint", []string{"region", "approve", "ber-1"}, "the fingerprint of region ber-1 was not confirmed"},
		{"half a fingerprint", []string{"region", "approve", "ber-1", "--confirm-fingerprint", "7k2m"}, `"7k2m" is no whole fingerprint`},
		{"region name", []string{"region", "invite", "Ber 1"}, `no region can be called "Ber 1"`},
		{"policy tag", []string{"region", "policy", "--export", "*"}, ""},
		{"job status", []string{"job", "list", "--status", "done"}, `no job has the status "done"`},
		{"log offset", []string{"job", "logs", "x", "--from=-1"}, "--from cannot be -1"},
		{"law pack", []string{"law", "import", "testdata/tag.yaml"}, "testdata/tag.yaml is neither a folder nor an archive"},
		{"law folder", []string{"law", "import", "testdata"}, "testdata holds no .csv table"},
		{"no region named", []string{"status"}, "no region to talk to was named"},
		{"address", []string{"status", "--addr", "fra-1:7443"}, `"fra-1:7443" is no address of a node`},
		{"CA file", []string{"status", "--addr", "https://h:1", "--ca", "nowhere.pem"}, "open nowhere.pem: no such file or directory"},
		{"CA garbage", []string{"status", "--addr", "https://h:1", "--ca", "testdata/tag.yaml"}, "the CA file holds no PEM certificate"},
		{"init without country", []string{"region", "init", "fra-1"}, "the region's country is missing"},
		{"init country", []string{"region", "init", "fra-1", "--country", "XX"}, `--country cannot be "XX": no country has that code`},
		{"init subdivision", []string{"region", "init", "fra-1", "--country", "FR", "--subdivision", "DE-HE"}, `--subdivision cannot be "DE-HE": it is no part of FR`},
		{"init claim", []string{"region", "init", "fra-1", "--country", "FR", "--claim", "dpf"}, `--claim cannot be "dpf"`},
		{"init assurance", []string{"region", "init", "fra-1", "--country", "FR", "--assurance", "location=sure"}, `--assurance location cannot be "sure"`},
		{"init address", []string{"region", "init", "fra-1", "--country", "FR", "--listen", "0.0.0.0:7443"}, `"0.0.0.0:7443" listens everywhere and is no address to call`},
		{"init argument", []string{"region", "init", "fra-1", "ber-1", "--country", "FR"}, `there is an argument too many: "ber-1"`},
		{"agent without config", []string{"agent"}, "the config file is missing"},
		{"agent's config", []string{"agent", "--config", "nowhere.yaml"}, "open nowhere.yaml: no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			for i, a := range tt.args {
				if a == "@FILE" {
					last := len(tt.args) - 1
					tt.args[i], tt.args = "@"+b.file("tag.yaml", tt.args[last]), tt.args[:last]
					break
				}
			}
			r := b.run(tt.args...)
			lines := strings.Split(strings.TrimSpace(r.err), "\n")
			if r.exit != 2 || r.out != "" || len(lines) != 2 || !strings.HasPrefix(lines[1], "   what to do: ") {
				t.Fatalf("exit %d, stdout %q, stderr %q", r.exit, r.out, r.err)
			}
			if got := strings.TrimPrefix(lines[0], "sovmesh: "); tt.err != "" && got != tt.err {
				t.Errorf("%q\nwant %q", got, tt.err)
			}
		})
	}
}

func TestBadJobFiles(t *testing.T) {
	tests := []struct{ name, file, err, hint string }{
		{"unknown field", "kind: process\nresidency: EU\ncomand: [x]\n", `a job has no field "comand" (line 3, column 1)`, "did you mean command?"},
		{"no residency", "kind: process\ncommand: [x]\n", "the job has no residency (line 1, column 1)", `add residency: "EEA" (or another tag); without one nothing is placed`},
		{"impossible quantity", "kind: process\nresidency: EU\ncommand: [x]\nresources: {gpus: -1}\n", "gpus cannot be \"-1\" (line 4, column 19)", "write a whole number from 0 to 1024"},
		{"bad tag", "kind: process\nresidency: Europe\ncommand: [x]\n", "", ""},
		{"not YAML", "kind: [process\n", "", ""},
		{"empty", "", "the job file is empty", ""},
		{"a list", "- x\n", "a job file is a mapping, not a list (line 1, column 1)", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			path := b.file("job.yaml", tt.file)
			b.in = tt.file
			for _, args := range [][]string{{"job", "run", path}, {"job", "check", path}, {"job", "run", "-"}} {
				r := b.run(append(args, "--addr", "https://127.0.0.1:1")...)
				message, hint, _ := strings.Cut(r.err, "\n")
				if r.exit != 2 || r.out != "" {
					t.Fatalf("%v: exit %d, stdout %q, stderr %q", args, r.exit, r.out, r.err)
				}
				if got := strings.TrimPrefix(message, "sovmesh: "); tt.err != "" && got != tt.err {
					t.Errorf("%v: %q\nwant %q", args, got, tt.err)
				}
				if got := strings.TrimSpace(strings.TrimPrefix(hint, "   what to do: ")); tt.hint != "" && got != tt.hint {
					t.Errorf("%v: hint %q\nwant %q", args, got, tt.hint)
				}
			}
		})
	}
}

func TestBadTagFiles(t *testing.T) {
	for _, tt := range []struct{ name, file, code string }{
		{"unknown field", "residency: {allow: [EU]}\ncontroll: {}\n", "tag.field"},
		{"a key twice", "residency: EU\nresidency: FR\n", "tag.field"},
		{"empty list", "residency: []\n", "tag.empty"},
		{"not YAML", "residency: [EU\n", "tag.syntax"},
		{"an alias", "a: &a [EU]\nresidency: {allow: *a}\n", "tag.syntax"},
		{"two documents", "residency: EU\n---\nresidency: FR\n", "tag.syntax"},
		{"deep", strings.Repeat("a: {", 40) + strings.Repeat("}", 40), "tag.syntax"},
		{"JSON with a key twice", `{"residency":"EU","residency":"FR"}`, "tag.field"},
		{"nothing", "", "tag.syntax"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			r := b.run("residency", "check", "@"+b.file("tag.yaml", tt.file), "--sites", "testdata/mesh.json", "--json")
			if r.exit != 2 || !strings.Contains(r.out, `"code":"`+tt.code+`"`) {
				t.Errorf("exit %d, %s", r.exit, r.out)
			}
		})
	}
}

func TestBadSitesFiles(t *testing.T) {
	for _, file := range []string{"", "[]", "{}", "[1]", `[{"region":"a","land":"DE"}]`, `[{"region":"a","country":"DEU"}]`, `[{"country":"DE"}]`, `[{"region":"a"}] x`} {
		b := newBench(t)
		r := b.run("residency", "check", "EU", "--sites", b.file("sites.json", file), "--json")
		if r.exit != 2 || !strings.Contains(r.out, `"code":"input.sites"`) {
			t.Errorf("%q: exit %d, %s", file, r.exit, r.out)
		}
	}
}
