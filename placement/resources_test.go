package placement

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestResourcesThatNoNodeCouldHave(t *testing.T) {
	for _, tt := range []struct {
		r    Resources
		want string // "" for possible
	}{
		{Resources{GPUs: 1, GPUShare: 300}, ""},
		{Resources{GPUs: 2, GPUProfile: "3g.40gb"}, ""},
		{Resources{GPUs: 2, GPUShare: 300}, "300m of 2 GPUs"},
		{Resources{GPUs: 1, GPUShare: 1000}, "no part"},
		{Resources{GPUs: 1, GPUShare: -1}, "negative"},
		{Resources{GPUs: 1, GPUShare: 500, GPUProfile: "1g.10gb"}, "not shared"},
		{Resources{GPUs: 1, GPUProfile: "half"}, "no MIG profile"},
		{Resources{GPUShare: 500}, "no gpus"},
		{Resources{Confidential: true}, "no gpus"},
		{Resources{GPUs: 1, GPUModel: "H100|NVIDIA A100"}, ""},
		{Resources{GPUs: 1, GPUModel: "H100 | A100"}, "blanks"},
		{Resources{GPUs: 1, GPUModel: "|"}, "empty name"},
		{Resources{GPUs: 1, GPUModel: "H100|"}, "empty name"},
		{Resources{GPUs: MaxGPUs + 1}, "more than one task"},
	} {
		why, help := tt.r.Problem()
		if tt.want == "" && why != "" || !strings.Contains(why, tt.want) || (why == "") != (help == "") {
			t.Errorf("%+v: %q, %q", tt.r, why, help)
		}
	}
}

func TestProfiles(t *testing.T) {
	for _, good := range []string{"1g.10gb", "7g.80gb", "1g.5gb+me", "2g.20gb+me.all", "1g.12gb+gfx"} {
		if !ValidProfile(good) {
			t.Errorf("%s is a profile", good)
		}
	}
	for _, bad := range []string{"", "1g", "1g.10", "g.10gb", "1g.gb", "0g.10gb", "1g.10gb+", "1G.10GB", "1g.10gb ", "1g.1000gb0gb", "-1g.10gb", "1g.10gb+" + strings.Repeat("a", 30)} {
		if ValidProfile(bad) {
			t.Errorf("%q is no profile", bad)
		}
	}
}

func TestMatches(t *testing.T) {
	whole := Device{Model: "NVIDIA H100 80GB HBM3", Memory: 80 * GiB}
	slice := Device{Model: "NVIDIA H100 80GB HBM3", Memory: 10 * GiB, Profile: "1g.10gb"}
	sealed := Device{Model: "NVIDIA H100 80GB HBM3", Memory: 80 * GiB, Confidential: true}
	for _, tt := range []struct {
		name string
		d    Device
		r    Resources
		want bool
	}{
		{"any", whole, Resources{}, true},
		{"one of several models", whole, Resources{GPUModel: "A100|h100"}, true},
		{"none of several models", whole, Resources{GPUModel: "A100|H200"}, false},
		{"a whole GPU is no instance", whole, Resources{GPUProfile: "1g.10gb"}, false},
		{"an instance is no whole GPU", slice, Resources{}, false},
		{"an instance", slice, Resources{GPUProfile: "1g.10gb"}, true},
		{"an instance of another profile", slice, Resources{GPUProfile: "2g.20gb"}, false},
		{"confidential wanted", whole, Resources{Confidential: true}, false},
		{"confidential given", sealed, Resources{Confidential: true}, true},
		{"confidential not needed", sealed, Resources{}, true},
	} {
		if got := tt.d.Matches(tt.r); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestUsageOfShares(t *testing.T) {
	var u Usage
	a, b := Resources{GPUs: 1, GPUShare: 600}, Resources{GPUs: 1, GPUShare: 400}
	one := u.With(a, []string{"g1"}, 1)
	both := one.With(b, []string{"g1"}, 1).With(Resources{GPUs: 1}, []string{"g0"}, 1)
	if one.Idle("g1") != 400 || both.Idle("g1") != 0 || both.Idle("g0") != 0 || both.Idle("g2") != WholeGPU || u.Idle("g1") != WholeGPU {
		t.Errorf("%+v %+v", one, both)
	}
	back := both.With(a, []string{"g1"}, -1)
	if back.Idle("g1") != 600 || both.Idle("g1") != 0 {
		t.Errorf("%+v after a share was given back of %+v", back, both)
	}
	if end := back.With(b, []string{"g1"}, -1).With(Resources{GPUs: 1}, []string{"g0"}, -1); end.Shares != nil || end.Devices != nil {
		t.Errorf("nothing is held, %+v", end)
	}
}

func TestShareInJSON(t *testing.T) {
	for _, text := range []string{`{"gpu_share":"300m"}`, `{"gpu_share":0.3}`, `{"gpu_share":"0.3"}`} {
		var r Resources
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.GPUShare != 300 {
			t.Errorf("%s: %v, %v", text, r.GPUShare, err)
		}
	}
	for _, text := range []string{`{"gpu_share":2}`, `{"gpu_share":-0.1}`, `{"gpu_share":"x"}`, `{"gpu_share":0.0001}`} {
		var r Resources
		if err := json.Unmarshal([]byte(text), &r); err == nil {
			t.Errorf("%s was read as %v", text, r.GPUShare)
		}
	}
}
