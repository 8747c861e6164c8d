package state

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

func (f *fixture) applyAs(actor string, c Command) *ledger.Leaf {
	f.t.Helper()
	raw, err := Encode(Head{Version: 1, Time: f.now, Salt: salt(f.index + 1), Actor: actor}, c)
	if err != nil {
		f.t.Fatal(err)
	}
	r := f.applyRaw(raw)
	leaf, err := ledger.Decode(r.Entry)
	if err != nil {
		f.t.Fatal(err)
	}
	return leaf
}

// An auditor reads who acted in which role; nobody reads which machine it was.
func TestLeavesShowRolesAndHideNames(t *testing.T) {
	f := newFixture(t)
	f.ok(CreateToken{Token: Token{ID: "tok-admin", Hash: hashOf("a"), Roles: []Role{RoleAdmin, RoleAuditor}}})
	tests := []struct {
		actor, role string
		hidden      string
	}{
		{"tok-admin", "admin+auditor", "tok-admin"},
		{From("tok-admin", "name-of-a-node", "192.0.2.7"), "admin+auditor", "name-of-a-node"},
		{From("tok-admin", "name-of-a-node", "192.0.2.7"), "admin+auditor", "192.0.2.7"},
		{"node:name-of-a-machine", "node", "name-of-a-machine"},
		{"region:ber-1", "region", ""},
		{"grant:g-1", "grant", ""},
		{"somebody with a name", "", "somebody"},
	}
	for _, tt := range tests {
		leaf := f.applyAs(tt.actor, CordonNode{Node: "n1"})
		if got := leaf.Get(ledger.ShownRole); got != tt.role {
			t.Errorf("%s acts as %q, want %q", tt.actor, got, tt.role)
		}
		entry, _ := leaf.Encode()
		if who, where, told := strings.Cut(tt.actor, "@"); told {
			opened := ledger.Salt(salt(f.index))
			if leaf.Actor != ledger.Opaque(opened, who) || leaf.Get(ledger.ShownWhere) != ledger.Opaque(opened, where) {
				t.Errorf("the region cannot open who and where: %q %q", leaf.Actor, leaf.Get(ledger.ShownWhere))
			}
		}
		if tt.hidden != "" && bytes.Contains(entry, []byte(tt.hidden)) {
			t.Errorf("the leaf holds %q", tt.hidden)
		}
	}
}

func TestLeavesShowWhatBecameOfAJob(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "FR")
	task := f.assign(id, "n1")
	zero := 0
	leaf := f.applyAs("node:n1", ReportTasks{Node: "n1", Reports: []placement.TaskReport{{Task: task, Status: placement.TaskComplete, ExitCode: &zero, At: f.now}}})
	if got := leaf.Get(ledger.ShownJob); got != string(id)+" complete 0" {
		t.Errorf("the leaf says %q of the job", got)
	}
}

// However much there is to say, a leaf stays within a log entry, and says how
// much it left out.
func TestShownFieldsAreBounded(t *testing.T) {
	c := &call{now: time.Unix(0, 0)}
	for range 3000 {
		c.show(ledger.ShownJob, strings.Repeat("x", 40))
	}
	all := c.allShown("node", "", nil)
	more := slices.IndexFunc(all, func(s ledger.Shown) bool { return s.Name == ledger.ShownMore })
	if more < 0 || all[more].Value == "0" {
		t.Errorf("%d fields of 3000, and nothing is said of the rest", len(all))
	}
	leaf := ledger.Leaf{Shown: all}
	if entry, err := leaf.Encode(); err != nil || len(entry) > maxShown+1024 {
		t.Errorf("%d bytes, %v", len(entry), err)
	}
}
