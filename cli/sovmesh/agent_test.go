package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAgentConfig(t *testing.T) {
	b := newBench(t)
	path := b.file("agent.yaml", `node: n1
data: data
listen: 0.0.0.0:7443
advertise: node1.example:7443
hosts: [node1, 192.0.2.10]
site: hall-2
gpus: sim:8xH100
cpu: 500m
memory: 64GiB
drivers: [process]
microvm: {vsock: true}
tasks: {host_network: allow, moves: 3, share: [/srv/models], resolvers: [192.0.2.53, "2001:db8::53"]}
witness: `+outsideWitness+`
receipts: {keep: 4400h, most: 2GiB}
log: {level: warn, format: json}
`)
	cfg, err := readAgentConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(path), "data"); cfg.Data != want {
		t.Errorf("data %s, want %s", cfg.Data, want)
	}
	if cfg.QUIC != "node1.example:7443" || cfg.API != "https://node1.example:7443" || cfg.listen != "0.0.0.0:7443" {
		t.Errorf("quic %s, api %s, listen %s", cfg.QUIC, cfg.API, cfg.listen)
	}
	if !reflect.DeepEqual(cfg.Hosts, []string{"node1", "192.0.2.10"}) || !reflect.DeepEqual(cfg.drivers, []string{"process"}) {
		t.Errorf("hosts %v, drivers %v", cfg.Hosts, cfg.drivers)
	}
	if cfg.CPU.String() != "500m" || cfg.Memory.String() != "64GiB" || cfg.level != slog.LevelWarn || !cfg.json || cfg.Site != "hall-2" {
		t.Errorf("%+v", cfg)
	}
	if !cfg.tasks.hostNetwork || cfg.Moves != 3 || !reflect.DeepEqual(cfg.tasks.share, []string{"/srv/models"}) || fmt.Sprint(cfg.tasks.resolvers) != "[192.0.2.53 2001:db8::53]" {
		t.Errorf("tasks %+v", cfg.tasks)
	}
	if !cfg.workloads.vsock {
		t.Error("micro-VMs are not spoken to by vsock")
	}
	if cfg.Witness != outsideWitness {
		t.Errorf("witness %q", cfg.Witness)
	}
	if cfg.ReceiptsFor != 4400*time.Hour || cfg.ReceiptsMax.String() != "2GiB" {
		t.Errorf("receipts for %s, at most %s", cfg.ReceiptsFor, cfg.ReceiptsMax)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

const logKeyLine = "fra-1.mesh.example/ledger+a58182ae+AWt5xX5qCVI5KCwEgY6WES8/A6QAG6l6VkwjhSo/HqX8 https://witness.example/w"

// outsideWitness is one line of configuration: a verifier key of type 0x04, and
// an address.
const outsideWitness = "witness.example/w+bfc4c0f7+BM7MFQfcHd1ylZUcKQiI8JWtuQRNG3PWlubfBl1oO9T8 https://witness.example/w"

// Every problem is reported at once, in the order of the file.
func TestAgentConfigProblems(t *testing.T) {
	const good = "node: n1\ndata: d\nlisten: 127.0.0.1:7443\n"
	tests := []struct {
		name, file string
		want       []string // of the message's lines, behind the file's name
	}{
		{"empty", "# nothing\n", nil},
		{"a list", "- a\n", []string{":1:1: the file must be a mapping, not a list"}},
		{"all missing", "site: x\n", []string{":1:1: node is missing", ":1:1: data is missing", ":1:1: listen is missing"}},
		{"names", good + "site: Hall 2\nhosts: a\n", []string{`:4:7: site cannot be "Hall 2"`, ":5:8: hosts must be a list, not a string"}},
		{"hosts", good + "hosts: [node1.example, \"::1\", \"https://x\"]\n", []string{`:4:31: "https://x" is no host`}},
		{"nearest", good + "drivrs: [process]\n", []string{`:4:1: there is no key "drivrs"`}},
		{"twice", good + "node: n2\n", []string{":4:1: node stands here a second time"}},
		{"listens everywhere", "node: n1\ndata: d\nlisten: 0.0.0.0:7443\n", []string{`:3:9: "0.0.0.0:7443" listens everywhere and is no address to call`}},
		{"port 0", "node: n1\ndata: d\nlisten: 127.0.0.1:0\n", []string{`:3:9: listen cannot be "127.0.0.1:0"`}},
		{"quantities", good + "cpu: lots\nmemory: -1GiB\n", []string{`:4:6: cpu cannot be "lots"`, `:5:9: memory cannot be "-1GiB"`}},
		{"devices", good + "gpus: 8\n", nil},
		{"shared", good + "tasks: {share: [models, /]}\n", []string{`:4:17: tasks.share cannot have "models"`, `:4:25: tasks.share cannot have "/"`}},
		{"resolver by name", good + "tasks: {resolvers: [dns.example]}\n", []string{`:4:21: tasks.resolvers cannot have "dns.example"`}},
		{"driver", good + "drivers: [process, docker]\n", []string{`:4:20: there is no driver "docker"`}},
		{"vsock", good + "microvm: {vsock: maybe, kvm: true}\n", []string{`:4:18: microvm.vsock cannot be "maybe"`, `:4:25: there is no key "kvm" in microvm`}},
		{"log", good + "log: {level: loud, form: x}\n", []string{`:4:14: level cannot be "loud"`, `:4:20: there is no key "form" in log`}},
		{"witness without an address", good + "witness: " + strings.Fields(outsideWitness)[0] + "\n", []string{":4:10: an outside witness is written as its verifier key, a space, and the address"}},
		{"witness that is a log", good + "witness: " + logKeyLine + "\n", []string{":4:10: the key of fra-1.mesh.example/ledger is that of a log; a witness cosigns"}},
		{"witness by telephone", good + "witness: " + strings.Fields(outsideWitness)[0] + " tel:123\n", []string{":4:10: the address of witness witness.example/w begins with https://"}},
		{"witness with a key that is none", good + "witness: x+1+2 https://witness.example\n", nil},
		{"receipts", good + "receipts: {keep: 5m, most: lots, for: x}\n", []string{`:4:18: receipts.keep cannot be "5m"`, `:4:28: receipts.most cannot be "lots"`, `:4:34: there is no key "for" in receipts`}},
		{"join token", good + "join: hello\n", nil},
		{"join twice", good + "join: hello\njoin_file: t\n", nil},
		{"not YAML", "node: [n1\n", nil},
		{"several documents", good + "---\nnode: n2\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			path := b.file("agent.yaml", tt.file)
			_, err := readAgentConfig(path)
			if err == nil || exitOf(err) != 2 {
				t.Fatalf("exit %d: %v", exitOf(err), err)
			}
			if tt.want == nil {
				return // one problem, in the YAML reader's or another package's words
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("%d problems, want %d:\n%s", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(strings.TrimPrefix(lines[i], path), want) {
					t.Errorf("line %q, want %q", lines[i], want)
				}
			}
		})
	}
}

func TestMissingJoinFileMattersToNewNodesOnly(t *testing.T) {
	b := newBench(t)
	cfg, err := readAgentConfig(b.file("agent.yaml", "node: n1\ndata: d\nlisten: 127.0.0.1:7443\njoin_file: token\n"))
	if err != nil || cfg.noJoinFile == nil || cfg.Join != "" {
		t.Errorf("%v, %v", err, cfg.noJoinFile)
	}
}

func TestPortTakenIsOneLine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBench(t)
	path := b.file("agent.yaml", "node: n1\ndata: d\nlisten: "+l.Addr().String()+"\n")
	r := b.run("agent", "--config", path)
	if r.exit != 1 || !strings.HasPrefix(r.err, "sovmesh: port taken: another program listens on "+l.Addr().String()+" (TCP)\n") || strings.Count(r.err, "\n") != 2 {
		t.Errorf("exit %d, %s", r.exit, r.err)
	}
}

func TestEmptyDataNeedsAToken(t *testing.T) {
	b := newBench(t)
	s, err := openSockets(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := s.addr()
	s.close()
	r := b.run("agent", "--config", b.file("agent.yaml", "node: n1\ndata: d\ngpus: none\nlisten: "+addr+"\n"))
	if r.exit != 2 || !strings.Contains(r.err, "no join token was given") || strings.Count(r.err, "\n") != 2 {
		t.Errorf("exit %d, %s", r.exit, r.err)
	}
}

func TestSocketsShareAPort(t *testing.T) {
	s, err := openSockets(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if s.udp.LocalAddr().String() != s.addr() {
		t.Errorf("UDP %s, TCP %s", s.udp.LocalAddr(), s.addr())
	}
}

func TestOnlyLoopbackIsDialled(t *testing.T) {
	for _, addr := range []string{"192.0.2.1:80", "example.com:80", "127.0.0.1", "169.254.169.254:80"} {
		if _, err := dialModel(context.Background(), addr); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBench(t)
	b.env["NOTIFY_SOCKET"] = path
	if err := b.program(nil, nil).notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := l.ReadFrom(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
