package placement

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The document has every field of a job: one that was forgotten would be hidden
// from every program.
func TestJobDocumentHasEveryField(t *testing.T) {
	job, doc := reflect.TypeFor[Job](), reflect.TypeFor[JobDocument]()
	if job.NumField() != doc.NumField() {
		t.Fatalf("a job has %d fields, its document %d", job.NumField(), doc.NumField())
	}
	for i := range job.NumField() {
		a, b := job.Field(i), doc.Field(i)
		if a.Name != b.Name || strings.TrimSuffix(a.Tag.Get("json"), ",omitzero") != strings.TrimSuffix(b.Tag.Get("json"), ",omitzero") {
			t.Errorf("field %d is %s %s in a job, %s %s in its document", i, a.Name, a.Tag, b.Name, b.Tag)
		}
	}
}

func TestJobTimesAreNullUntilKnown(t *testing.T) {
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	code := 3
	full := Job{ID: "fra-1.x", Name: "n", Kind: KindProcess, Tenant: "t", Residency: "EU", Policy: []Layer{{Origin: "job", Tag: "EU"}}, Region: "fra-1", Node: "n1",
		Spec:   JobSpec{Kind: KindProcess, Command: []string{"/bin/true"}, Env: map[string]string{"started_at": "0001-01-01T00:00:00Z"}},
		Status: JobRunning, Reason: "r", Code: "c", SubmittedAt: at, StartedAt: at, EndedAt: at, ExitCode: &code, EntryRegion: "fra-1", Hops: 1, Receipt: "x",
		Attempts: 1, Restarts: 2, NotBefore: at, StopRequested: true, StopReason: "s", Forward: &Forward{Region: "ber-1"}, Origin: "iad-1", Index: 7}
	fresh := full
	fresh.StartedAt, fresh.EndedAt = time.Time{}, time.Time{}
	for name, j := range map[string]Job{"full": full, "fresh": fresh, "zero": {}} {
		data, err := json.Marshal(j.Document())
		if err != nil {
			t.Fatal(err)
		}
		if null := strings.Contains(string(data), `"started_at":null,"ended_at":null`); null != j.StartedAt.IsZero() {
			t.Errorf("%s: %s", name, data)
		}
		var lax Job
		if err := json.Unmarshal(data, &lax); err != nil || !reflect.DeepEqual(lax, j) {
			t.Errorf("%s: read back as %+v, %v", name, lax, err)
		}
	}
}
