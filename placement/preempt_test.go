package placement

import "testing"

// A guarantee of one model is none of the others: a job that may be given any
// device never uses it up, and would take back the region.
func TestAGuaranteeOfAModelCoversWhoAsksForIt(t *testing.T) {
	share := TenantShare{Bounds: []Bound{{Tenant: "acme", Class: "H100", Guarantee: 2, Held: 1000}}}
	for model, want := range map[string]bool{"": false, "H100": true, "h100": true, "A100": false, "H100|A100": false, "NVIDIA H100 80GB HBM3|H100": true} {
		job := &Job{ID: "fra-1.a", Tenant: "acme", Spec: JobSpec{Resources: Resources{GPUs: 1, GPUModel: model}}}
		if got := share.Covers("acme", job); got != want {
			t.Errorf("%q: covered %t, want %t", model, got, want)
		}
	}
	any := TenantShare{Bounds: []Bound{{Tenant: "acme", Class: ClassGPUs, Guarantee: 2, Held: 1000}}}
	for gpus, want := range map[int]bool{0: false, 1: true, 2: false} {
		job := &Job{ID: "fra-1.a", Tenant: "acme", Spec: JobSpec{Resources: Resources{GPUs: gpus}}}
		if got := any.Covers("acme", job); got != want {
			t.Errorf("%d of any: covered %t, want %t", gpus, got, want)
		}
	}
}
