package metrics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func scraped(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestWhatDevicesDoIsForThoseWhoSeeAll(t *testing.T) {
	m, err := New(full(t))
	if err != nil {
		t.Fatal(err)
	}
	some, all, dcgm := scraped(t, m.Handler()), scraped(t, m.Full()), scraped(t, m.DCGM())
	if strings.Contains(some, "GPU-1") {
		t.Error("every reader sees what a device does")
	}
	for _, want := range []string{
		`sovmesh_gpu_visible{region="fra-1"} 1`, `sovmesh_gpu_devices{health="lost",region="fra-1"} 1`, `sovmesh_gpu_faults_total{class="application",region="fra-1"} 2`,
		`sovmesh_gpu_faults_total{class="drain",region="fra-1"} 1`, `sovmesh_gpu_faults_total{class="fatal",region="fra-1"} 0`,
	} {
		if !strings.Contains(some, want) || !strings.Contains(all, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, want := range []string{
		`sovmesh_gpu_utilization_ratio{device="GPU-1",region="fra-1"} 0.37`, `sovmesh_gpu_memory_used_bytes{device="GPU-1",region="fra-1"} 1.073741824e+09`,
		`sovmesh_gpu_power_watts{device="GPU-1",region="fra-1"} 412`, `sovmesh_gpu_energy_joules_total{device="GPU-1",region="fra-1"} 5`,
		`sovmesh_gpu_health{device="sim-n1-0",health="lost",region="fra-1"} 1`, `sovmesh_gpu_xid_total{device="GPU-1",region="fra-1",xid="31"} 2`,
		`sovmesh_gpu_throttled{device="GPU-1",region="fra-1"} 1`, `simulated="true"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(all, `ratio{device="sim-n1-0"`) || strings.Contains(dcgm, "sim-n1-0") {
		t.Error("numbers of a simulated device are made up")
	}
	for _, want := range []string{
		"DCGM_FI_DEV_GPU_UTIL{", `UUID="GPU-1"`, "DCGM_FI_DEV_FB_FREE{", "} 3072\n", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{", "} 5000\n", "DCGM_FI_DEV_XID_ERRORS{", "} 31\n",
	} {
		if !strings.Contains(dcgm, want) {
			t.Errorf("no %s in\n%s", want, dcgm)
		}
	}
}
