package main

import (
	"testing"

	"github.com/sovmesh/sovmesh/node/api"
)

func TestAQuotaIsSaidWithTheBoundsThatItHas(t *testing.T) {
	for want, q := range map[string]api.QuotaLine{
		"15 of 40 gpus":                  {Name: "gpus", Used: 15, Limit: 40},
		"3 held H100, 4 guaranteed":      {Name: "held H100", Used: 3, Guarantee: 4},
		"3 of 8 held H100, 4 guaranteed": {Name: "held H100", Used: 3, Limit: 8, Guarantee: 4},
	} {
		if got := quotaText(q); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
