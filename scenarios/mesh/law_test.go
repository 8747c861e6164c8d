package mesh

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// crossing is every type that crosses a border, and each field that it may
// carry there (law 4). A field that is added fails the test until somebody has
// judged it, and written it down here.
var crossing = []struct {
	what   any
	fields string
}{
	// Capacity: counts in buckets, and names of models that tenants export.
	{placement.RegionSummary{}, "Region Epoch Generated Expires LawPack Classes Models Draining"},
	{placement.ClassSummary{}, "Class Profile Confidential Free Largest Withheld"},
	{api.SummaryStatement{}, "Summary FrontDoors LawPack Bundle"},
	// Front doors: addresses. The name of the node is stripped, see below.
	{placement.FrontDoor{}, "Node QUIC API"},
	// Federation: what two operators compare and pin.
	{api.RegionCard{}, "Region Mesh Facts Bundle ServingCA FrontDoors LawPack LogKey WitnessKey KeyProof"},
	{placement.RegionFacts{}, "Country Subdivision Operator Claims Assurance"},
	{placement.Operator{}, "Name Home Parent"},
	{placement.Assurance{}, "Location Operator AsOf"},
	{api.FederationJoin{}, "Code Region"},
	{api.JoinRegionResult{}, "Region State Fingerprint"},
	// Reservations and their answers: sizes and the policy, no name and no tenant.
	{api.ReserveRequest{}, "Job Attempt Kind Resources Site Policy LawPack Expires DryRun Gang HomeLeaf"},
	{api.ReserveAnswer{}, "Key Held Outcome Expires Code Reason Hint Summary Leaf"},
	{placement.Resources{}, "CPU Memory GPUs GPUShare GPUModel GPUMemory GPUProfile Confidential"},
	{placement.Layer{}, "Origin Tag"},
	// A job's bytes, under its policy.
	{api.ForwardedJob{}, "Job Tenant Residency Policy Spec AllowAny Reservation SubmittedAt Hops HomeLeaf"},
	{placement.JobSpec{}, "Name Kind Type Command Env Resources Priority Restart Singleton Evidence OnDrain StopGrace Models Upstream Image Site NodeName Preemptible Members Spread Avoid Near Rank MaxRuntime Setup"},
	{placement.Setup{}, "ImageDigest User WorkDir WritableRoot Capabilities Pids Volumes Ports Network Health Disks RootSize CloudInit CloudNetwork Boot Server Secrets Inputs Outputs Drift"},
	{placement.Volume{}, "Name Path ReadOnly Shared"},
	{placement.Port{}, "Name Port Host"},
	{placement.Network{}, "Host Allow DNS"},
	{placement.Health{}, "Command Interval Timeout Start Retries"},
	{placement.Disk{}, "Name Size"},
	{placement.Input{}, "Name Digest Source"},
	{placement.Outputs{}, "Max Files"},
	{placement.Server{}, "Kind Command Env Image Port Start"},
	{placement.Rank{}, "Cost Carbon"},
	{placement.Restart{}, "Policy Attempts"},
	// Who connects to a service of its tenant's, and the policy that its words go under;
	// no name of a node or a task.
	{api.ServiceHead{}, "Port Tenant Job Region Site Policy"},
	// What the owner of a forwarded job does in its task, and how that ends: a
	// command's bytes, as the job's own; a problem in words of a closed list.
	{api.ReachHead{}, "Task Command Env TTY Size Port"},
	{api.TermSize{}, "Columns Rows"},
	{api.ReachEnd{}, "Exit Problem"},
	{api.ReachExit{}, "Code Reason"},
	{api.Problem{}, "Type Title Status Detail Code Advice Rule Line Column Doors RetryAfter Final"},
	{api.Door{}, "Region URL"},
	// What such a job left: its own bytes and their names, to its home under the gate
	// of what it printed.
	{api.JobOutputs{}, "Job Task Digest OutputList"},
	{placement.OutputList{}, "Files LeftOut Why"},
	{placement.Output{}, "Name Size Digest"},
	// The status of one's own forwarded job: the region, no node.
	{api.ForeignStatus{}, "Job Region Status Reason ExitCode StartedAt EndedAt Index Leaf"},
	// Where the other half of a crossing stands: a position and a hash.
	{state.LeafRef{}, "Index Hash"},
	{api.JobChanges{}, "Index Jobs Landed"},
	// Which job came in by which grant of the asking region: opaque ids, a position and a hash.
	{api.LandedJob{}, "Grant Job Leaf"},
	// Grants, and the directory that clients judge by.
	{api.GrantClaims{}, "ID Home Tenant Audience PolicyHash IdempotencyKey Job Verbs Layers AllowAny LawPack Expires Leaf"},
	{api.Directory{}, "Home Mesh LawPack Issued Regions"},
	{api.DirectoryRegion{}, "Region Facts Doors ServingCA Link Import Export LawPack"},
	// Inference: a typed head, never the client's own headers.
	{transport.Head{}, "RequestID Tenant Tag LawPack Model Method Path ContentType Deadline Hops BodySize Accept APIBeta APIVersion ReceiptID"},
	{transport.Answer{}, "Status ContentType Code Message RetryAfter Size RequestID ReceiptID Region Hash"},
}

func TestWhatCrossesABorderIsListed(t *testing.T) {
	listed := map[reflect.Type]bool{}
	for _, c := range crossing {
		typ := reflect.TypeOf(c.what)
		listed[typ] = true
		var have []string
		for i := range typ.NumField() {
			have = append(have, typ.Field(i).Name)
		}
		want := strings.Fields(c.fields)
		for _, f := range have {
			if !slices.Contains(want, f) {
				t.Errorf("%s.%s would cross a border: judge it by law 4, then list it", typ, f)
			}
		}
		for _, f := range want {
			if !slices.Contains(have, f) {
				t.Errorf("%s.%s is listed and does not exist", typ, f)
			}
		}
	}
	// Nothing hides in a field: every struct below is listed itself, and no
	// field can hold just anything.
	for _, c := range crossing {
		walk(t, reflect.TypeOf(c.what), reflect.TypeOf(c.what).String(), listed)
	}
}

// walk follows the types of a listed type's fields.
func walk(t *testing.T, typ reflect.Type, path string, listed map[reflect.Type]bool) {
	for i := range typ.NumField() {
		below(t, typ.Field(i).Type, path+"."+typ.Field(i).Name, listed)
	}
}

func below(t *testing.T, typ reflect.Type, path string, listed map[reflect.Type]bool) {
	switch typ.Kind() {
	case reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		t.Errorf("%s can hold anything", path)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		below(t, typ.Elem(), path, listed)
	case reflect.Map:
		below(t, typ.Key(), path, listed)
		below(t, typ.Elem(), path, listed)
	case reflect.Struct:
		if typ.PkgPath() != "time" && !listed[typ] {
			t.Errorf("%s is a %s, which is not listed", path, typ)
		}
	}
}

// What really arrives holds no name of a node, a host, a tenant or a job of
// another: the summary and the directory of a mesh with all of them are read.
func TestASummaryNamesNobody(t *testing.T) {
	Run(t, func(t *testing.T) {
		de := Region("ber-1", "DE", 3)
		de.GPUs = []placement.Device{h200, h200}
		de.Sites = []string{"adlershof", "adlershof", "adlershof"}
		m := New(t, Region("fra-1", "FR", 1), de)
		secret := m.At("ber-1").Submit(`{"kind":"fake","name":"secret-name","residency":"DE","env":{"KEY":"secret-value"},"command":["sleep"]}`)
		m.Within(10*time.Second, "it runs", secret.Is(placement.JobRunning))
		r := m.rogue(m.stolen("fra-1", "n1"), outside(1))
		res, err := r.ask("GET", m.peer("ber-1", "n1"), api.MeshPrefix+"/summary", nil, nil)
		m.must(err)
		said := readStatement(t, res)
		for _, word := range []string{"secret", "adlershof", "sim-ber-1", string(secret.ID), `"n1"`, `"n2"`, `"node"`, "default", "country", "operator"} {
			if strings.Contains(said, word) {
				t.Errorf("the summary says %q: %s", word, said)
			}
		}
		if !strings.Contains(said, "H200") {
			t.Errorf("the summary says nothing of its devices: %s", said)
		}
	})
}
