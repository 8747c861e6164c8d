package api

import (
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestInputsOfAJob(t *testing.T) {
	o := JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())}
	sum := "sha256:" + strings.Repeat("a", 64)
	job := func(inputs string) []byte {
		return []byte("kind: process\ncommand: [x]\nresidency: EU\ninputs: [" + inputs + "]\n")
	}
	spec, err := ReadJob(job(`{name: model.bin, digest: "`+sum+`", source: "https://models.example/a"}, {name: b, digest: "`+sum+`", source: /images/b}`), o)
	if err != nil || len(spec.Spec.Setup.Inputs) != 2 || spec.Spec.Setup.Inputs[0].Name != "model.bin" {
		t.Fatalf("%+v, %v", spec, err)
	}
	for bad, want := range map[string]string{
		`{name: a, digest: "` + sum + `"}`:                                                           "needs a name, a digest and a source",
		`{name: ../a, digest: "` + sum + `", source: /a}`:                                            "name cannot be",
		`{name: a, digest: "md5:1", source: /a}`:                                                     "digest cannot be",
		`{name: a, digest: "` + sum + `", source: "http://a.example/a"}`:                             "source cannot be",
		`{name: a, digest: "` + sum + `", source: "https://me:pw@a.example/a"}`:                      "source cannot be",
		`{name: a, digest: "` + sum + `", source: "/images/../etc/passwd"}`:                          "source cannot be",
		`{name: a, digest: "` + sum + `", source: /a}, {name: a, digest: "` + sum + `", source: /b}`: "twice",
		`{name: a, digest: "` + sum + `", source: /a, mode: 1}`:                                      "mode",
	} {
		if _, err := ReadJob(job(bad), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v; want %q", bad, err, want)
		}
	}
}
