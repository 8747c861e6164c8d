package node

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestMetricsAreOpenToLoopbackAlone(t *testing.T) {
	serves := func(status int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	}
	tests := []struct {
		name, remote string
		method       string
		open         bool
		want         int
	}{
		{"a neighbour on the machine, when open", "127.0.0.1:5000", http.MethodGet, true, http.StatusOK},
		{"the same over IPv6", "[::1]:5000", http.MethodHead, true, http.StatusOK},
		{"another machine, when open", "192.0.2.7:5000", http.MethodGet, true, http.StatusUnauthorized},
		{"a neighbour, when not open", "127.0.0.1:5000", http.MethodGet, false, http.StatusUnauthorized},
		{"an address that is none", "pipe", http.MethodGet, true, http.StatusUnauthorized},
		{"a write", "127.0.0.1:5000", http.MethodPost, true, http.StatusMethodNotAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "/metrics", nil)
			r.RemoteAddr = tt.remote
			r.Header.Set("X-Forwarded-For", "127.0.0.1") // anybody can write this
			w := httptest.NewRecorder()
			guardMetrics(serves(http.StatusOK), serves(http.StatusUnauthorized), tt.open).ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("status %d, want %d", w.Code, tt.want)
			}
		})
	}
}
