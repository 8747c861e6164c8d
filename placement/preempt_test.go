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

// What all tenants of another region are guaranteed together protects each of
// them, and entitles each, as far as they hold less together.
func TestAGuaranteeOfARegionIsThatOfItsTenants(t *testing.T) {
	share := func(region, own int64, guaranteed ...int) *TenantShare {
		s := &TenantShare{Bounds: []Bound{{Tenant: "ber-1/*", Class: ClassGPUs, Guarantee: guaranteed[0], Held: region * 1000}}}
		if len(guaranteed) > 1 {
			s.Bounds = append(s.Bounds, Bound{Tenant: "ber-1/acme", Class: ClassGPUs, Guarantee: guaranteed[1], Held: own * 1000})
		}
		return s
	}
	of := func(tenant TenantID) *Job {
		return &Job{ID: JobID("fra-1." + string(tenant)), Tenant: tenant, Spec: JobSpec{Resources: Resources{GPUs: 1}}}
	}
	one := func(string) int64 { return 1000 }
	home := &TenantShare{Bounds: []Bound{{Tenant: "bank", Class: ClassGPUs, Guarantee: 4, Held: 0}}}
	loose := &TenantShare{}
	for name, c := range map[string]struct {
		job, victim *Job
		mine, held  *TenantShare
		want        string
	}{
		"it protects":                             {of("bank"), of("ber-1/acme"), home, share(2, 0, 2), ""},
		"not what is beyond it":                   {of("bank"), of("ber-1/acme"), home, share(3, 0, 2), PreemptReclaim},
		"it entitles":                             {of("ber-1/acme"), of("bank"), share(1, 0, 2), loose, PreemptReclaim},
		"not beyond it":                           {of("ber-1/acme"), of("bank"), share(2, 0, 2), loose, ""},
		"beyond it, who has one alone":            {of("ber-1/acme"), of("bank"), share(2, 0, 2, 1), loose, PreemptReclaim},
		"within it, who has used up the other":    {of("ber-1/acme"), of("bank"), share(1, 1, 2, 1), loose, PreemptReclaim},
		"nobody from another that is within it":   {of("ber-1/acme"), of("ber-1/other"), share(1, 0, 2), share(1, 0, 2), ""},
		"but from one that has a guarantee alone": {of("ber-1/acme"), of("ber-1/other"), share(2, 0, 2, 1), share(2, 0, 2), PreemptReclaim},
		"another region's is none of it":          {of("bank"), of("mad-1/acme"), home, share(2, 0, 2), PreemptReclaim},
	} {
		if got := MayPreempt(c.job, c.victim, one, c.mine, c.held); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
