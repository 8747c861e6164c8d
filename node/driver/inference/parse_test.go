package inference

import "testing"

func FuzzParseModels(f *testing.F) {
	f.Add([]byte(`{"object":"list","data":[{"id":"m"}]}`))
	f.Add([]byte(`{"data":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if names, err := parseModels(body); err != nil && names != nil {
			t.Errorf("names with an error: %q, %v", names, err)
		}
	})
}
