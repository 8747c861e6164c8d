package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

const oneDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// What a job says of its workload is read from YAML, is carried by the wire as
// JSON, and is read there as the same again.
func TestSetupIsReadAndCarried(t *testing.T) {
	cases := []struct {
		name, text string
		want       placement.Setup
	}{
		{"container", `
kind: container
image: registry.example/app@` + oneDigest + `
residency: EU
user: "1000:1000"
workdir: /srv
writable_root: true
capabilities: [net_bind_service, CAP_CHOWN]
pids: 100
volumes: [{name: data, path: /data, shared: true}, {name: ref, path: /ref, read_only: true}]
ports: [8080, {name: admin, port: 9000, host: 19000}]
network: {allow: ["192.0.2.7:443", "2001:db8::/32", "region:fra-1", "service:db"], dns: [192.0.2.53]}
health: {command: [/bin/check], interval: 10s, timeout: 2s, start: 1m, retries: 2}
drift: enforce
`, placement.Setup{
			User: "1000:1000", WorkDir: "/srv", WritableRoot: true, Capabilities: []string{"NET_BIND_SERVICE", "CHOWN"}, Pids: 100,
			Volumes: []placement.Volume{{Name: "data", Path: "/data", Shared: true}, {Name: "ref", Path: "/ref", ReadOnly: true}},
			Ports:   []placement.Port{{Port: 8080}, {Name: "admin", Port: 9000, Host: 19000}},
			Network: &placement.Network{Allow: []string{"192.0.2.7:443", "2001:db8::/32", "region:fra-1", "service:db"}, DNS: []string{"192.0.2.53"}},
			Health:  &placement.Health{Command: []string{"/bin/check"}, Interval: placement.Duration(10 * time.Second), Timeout: placement.Duration(2 * time.Second), Start: placement.Duration(time.Minute), Retries: 2},
			Drift:   placement.DriftEnforce,
		}},
		{"process", "kind: process\ncommand: [x]\nresidency: EU\nnetwork: host\n", placement.Setup{Network: &placement.Network{Host: true}}},
		{"nothing at all", "kind: process\ncommand: [x]\nresidency: EU\nnetwork: none\n", placement.Setup{Network: &placement.Network{}}},
		{"vm", `
kind: vm
image: debian-12
residency: EU
root_size: 8GiB
disks: [{name: data, size: 20GiB}]
boot: uefi
cloud_init:
  users: [{name: ops, ssh_authorized_keys: [ssh-ed25519 AAAA]}]
  write_files: [{path: /etc/motd, permissions: 0644, content: "a \"b\" <c> ü\n"}]
  package_update: true
  runcmd: [[systemctl, restart, x], null]
cloud_network: {version: 2}
`, placement.Setup{
			RootSize: 8 * placement.GiB, Disks: []placement.Disk{{Name: "data", Size: 20 * placement.GiB}}, Boot: placement.BootUEFI,
			CloudInit:    "#cloud-config\n" + `{"users":[{"name":"ops","ssh_authorized_keys":["ssh-ed25519 AAAA"]}],"write_files":[{"path":"/etc/motd","permissions":"0644","content":"a \"b\" <c> ü\n"}],"package_update":true,"runcmd":[["systemctl","restart","x"],null]}` + "\n",
			CloudNetwork: `{"version":2}` + "\n",
		}},
		{"a script", "kind: vm\nimage: /images/a.qcow2\nresidency: EU\ncloud_init: |\n  #!/bin/sh\n  true\n", placement.Setup{CloudInit: "#!/bin/sh\ntrue\n"}},
		{"a server", `
kind: inference
models: [llama]
residency: EU
server: {kind: container, image: "oci-archive:/images/vllm.tar", command: [serve], env: {A: b}, port: 8000, start: 10m}
volumes: [{name: models, path: /models}]
`, placement.Setup{
			Server:  &placement.Server{Kind: placement.KindContainer, Image: "oci-archive:/images/vllm.tar", Command: []string{"serve"}, Env: map[string]string{"A": "b"}, Port: 8000, Start: placement.Duration(10 * time.Minute)},
			Volumes: []placement.Volume{{Name: "models", Path: "/models"}},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			j, err := ReadJob([]byte(c.text), options())
			if err != nil {
				t.Fatal(err)
			}
			if j.Spec.Setup == nil || !reflect.DeepEqual(*j.Spec.Setup, c.want) {
				t.Fatalf("read %+v\nwant %+v", j.Spec.Setup, c.want)
			}
			if doc, ok := strings.CutPrefix(c.want.CloudInit, "#cloud-config\n"); ok && !json.Valid([]byte(doc)) {
				t.Errorf("the user-data is no JSON: %s", doc)
			}
			body, err := j.Body()
			if err != nil {
				t.Fatal(err)
			}
			again, err := ReadJob(body, options())
			if err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			if !reflect.DeepEqual(again.Spec, j.Spec) {
				t.Errorf("the wire %s\nreads as %+v\nwas     %+v", body, again.Spec, j.Spec)
			}
		})
	}
	plain, err := ReadJob([]byte("kind: process\ncommand: [x]\nresidency: EU\n"), options())
	if err != nil || plain.Spec.Setup != nil {
		t.Errorf("a job that says nothing of it has %+v, %v", plain.Spec.Setup, err)
	}
}

func TestSetupFaults(t *testing.T) {
	const process = "kind: process\ncommand: [x]\nresidency: EU\n"
	const container = "kind: container\nimage: app\nresidency: EU\n"
	const vm = "kind: vm\nimage: debian-12\nresidency: EU\n"
	const inference = "kind: inference\nmodels: [m]\nresidency: EU\n"
	cases := []struct {
		name, text, hint string
		line, column     int
	}{
		{"a slip", container + "capabilites: [CHOWN]\n", "capabilities", 4, 1},
		{"a slip in a volume", container + "volumes: [{nmae: x, path: /x}]\n", "name", 4, 12},
		{"a disk of a process", process + "disks: [{name: a, size: 1GiB}]\n", "kind: vm", 4, 8},
		{"capabilities of a vm", vm + "capabilities: [CHOWN]\n", "container or microvm", 4, 15},
		{"cloud-init of a container", container + "cloud_init: {users: []}\n", "kind: vm", 4, 14},
		{"a server of a process", process + "server: {kind: process, command: [x], port: 1}\n", "inference", 4, 10},
		{"power over the machine", container + "capabilities: [SYS_ADMIN]\n", "may keep", 4, 16},
		{"a slip in a capability", container + "capabilities: [CHWON]\n", "CHOWN", 4, 16},
		{"a capability twice", container + "capabilities: [CHOWN, CAP_CHOWN]\n", "once", 4, 23},
		{"a user by name", container + "user: root\n", "numbers", 4, 7},
		{"a relative path", container + "workdir: srv\n", "absolute", 4, 10},
		{"a path upwards", container + "volumes: [{name: x, path: /a/../etc}]\n", "without ..", 4, 27},
		{"a volume upwards", container + "volumes: [{name: ../../etc, path: /x}]\n", "lower-case", 4, 18},
		{"a volume over the kernel's", container + "volumes: [{name: x, path: /proc/1}]\n", "another path", 4, 27},
		{"a volume over everything", container + "volumes: [{name: x, path: /}]\n", "absolute", 4, 27},
		{"two volumes at one place", container + "volumes: [{name: x, path: /x}, {name: y, path: /x}]\n", "once", 4, 10},
		{"a volume without a place", container + "volumes: [{name: x}]\n", "path", 4, 12},
		{"a port of the operator", container + "ports: [{port: 80, host: 80}]\n", "1024", 4, 26},
		{"a port beyond", container + "ports: [70000]\n", "65535", 4, 9},
		{"a port twice", container + "ports: [80, 80]\n", "once", 4, 8},
		{"no network of that name", process + "network: bridge\n", "none, host", 4, 10},
		{"host and a list", process + "network: {host: true, allow: [192.0.2.7]}\n", "leave out", 4, 11},
		{"a name of a host", process + "network: {allow: [\"example.org:443\"]}\n", "address", 4, 19},
		{"everything", process + "network: {allow: [\"0.0.0.0/0\"]}\n", "address", 4, 19},
		{"the machine's metadata", process + "network: {allow: [169.254.169.254]}\n", "address", 4, 19},
		{"a service of no name", process + "network: {allow: [\"service:a b\"]}\n", "looks it up", 4, 19},
		{"a service with a name for a shell", process + "network: {allow: [\"service:$(x)\"]}\n", "looks it up", 4, 19},
		{"loopback", process + "network: {allow: [\"127.0.0.1:7443\"]}\n", "address", 4, 19},
		{"a resolver by name", process + "network: {dns: [dns.example]}\n", "resolver", 4, 17},
		{"health without a command", container + "health: {interval: 1s}\n", "command", 4, 10},
		{"pids", container + "pids: 0\n", "whole number", 4, 7},
		{"no digest", container + "image_digest: sha256:abc\n", "64 hex", 4, 15},
		{"two digests", "kind: container\nimage: app@" + oneDigest + "\nresidency: EU\nimage_digest: sha256:" + strings.Repeat("b", 64) + "\n", "one digest", 4, 15},
		{"an image upwards", "kind: container\nimage: oci-archive:/images/../etc/shadow\nresidency: EU\n", "write oci-archive:", 2, 8},
		{"an image with an option", "kind: container\nimage: --privileged\nresidency: EU\n", "registry", 2, 8},
		{"an image from nowhere", "kind: vm\nimage: https://images.example/a.qcow2\nresidency: EU\n", "image_digest", 2, 8},
		{"an image by another protocol", "kind: vm\nimage: file:///etc/shadow\nresidency: EU\n", "https://", 2, 8},
		{"a vm's path upwards", "kind: vm\nimage: /images/../../etc/shadow\nresidency: EU\n", "without ..", 2, 8},
		{"no boot of that name", vm + "boot: floppy\n", "bios", 4, 7},
		{"a disk of nothing", vm + "disks: [{name: a, size: 0}]\n", "above zero", 4, 25},
		{"a disk beyond", vm + "root_size: 65TiB\n", "64TiB", 4, 12},
		{"user-data of no kind", vm + "cloud_init: hello\n", "first line", 4, 13},
		{"user-data with a key twice", vm + "cloud_init: {a: 1, a: 2}\n", "once", 4, 20},
		{"user-data that is not YAML", vm + "cloud_init: |\n  #cloud-config\n  users: [\n", "correct it", 4, 13},
		{"user-data that is a list", vm + "cloud_init: |\n  #cloud-config\n  - a\n", "correct it", 4, 13},
		{"a guest's network that is not YAML", vm + "cloud_network: \"a: [\"\n", "correct it", 4, 16},
		{"a volume over the node's programs", process + "volumes: [{name: x, path: /usr/share/x}]\n", "/var/lib/NAME", 4, 10},
		{"a volume around the node's", process + "volumes: [{name: x, path: /var}]\n", "/var/lib/NAME", 4, 10},
		{"a volume within another", process + "volumes: [{name: x, path: /data}, {name: y, path: /data/y}]\n", "/var/lib/NAME", 4, 10},
		{"a server's volume over the node's", inference + "server: {kind: process, command: [x], port: 1}\nvolumes: [{name: x, path: /opt/x}]\n", "/var/lib/NAME", 5, 10},
		{"drift of a process", process + "drift: report\n", "container", 4, 8},
		{"an upstream and a server", inference + "upstream: http://127.0.0.1:1\nserver: {kind: process, command: [x], port: 1}\n", "leave out", 4, 11},
		{"neither of them", inference, "server:", 1, 1},
		{"a server without a port", inference + "server: {kind: process, command: [x]}\n", "server", 4, 10},
		{"a server of nothing", inference + "server: {kind: container, port: 1}\n", "image", 4, 10},
		{"a disk of a container's server", inference + "server: {kind: container, image: a, port: 1}\ndisks: [{name: a, size: 1GiB}]\n", "kind: vm", 5, 8},
		{"a server in a server", inference + "server: {kind: inference, port: 1}\n", "process", 4, 16},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadJob([]byte(c.text), options())
			var in *InputError
			if !errors.As(err, &in) {
				t.Fatalf("read as %v", err)
			}
			if in.Code != "input.job" || !strings.Contains(in.Help, c.hint) {
				t.Errorf("%s: says %q, helps %q, want %q", in.Code, in.Message, in.Help, c.hint)
			}
			if c.line > 0 && (in.Line != c.line || in.Column != c.column) {
				t.Errorf("points at %d:%d, want %d:%d: %v", in.Line, in.Column, c.line, c.column, in)
			}
		})
	}
}
