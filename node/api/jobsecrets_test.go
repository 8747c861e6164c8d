package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestSecretsAreReadWhereTheirAuthorIs(t *testing.T) {
	read := func(how, where string) (string, error) {
		if where == "gone" {
			return "", errors.New("no such file")
		}
		return how + " " + where, nil
	}
	job := func(secrets string) string {
		return "kind: process\ncommand: [x]\nresidency: EU\nsecrets: " + secrets + "\n"
	}
	o := JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now()), Secret: read}
	got, err := ReadJob([]byte(job("{A: {file: a.txt}, B: {env: BEE}, C: \"plain\"}")), o)
	if err != nil {
		t.Fatal(err)
	}
	if all := fmt.Sprint(got.Spec.Setup.Secrets); all != "map[A:file a.txt B:env BEE C:plain]" {
		t.Errorf("read: %s", all)
	}
	// The wire carries values; a server reads no files of its own for anybody.
	body, err := got.Body()
	if err != nil {
		t.Fatal(err)
	}
	o.Secret = nil
	if again, err := ReadJob(body, o); err != nil || again.Spec.Setup.Secrets["A"] != "file a.txt" {
		t.Errorf("read back from the wire: %v", err)
	}
	for bad, want := range map[string]string{
		"{A: {file: /etc/shadow}}":            "is read by the command line",
		"[A]":                                 "must be a mapping",
		`{"../A": x}`:                         "is no name of a secret",
		"{A: sealed}":                         "has no value",
		"{A: {url: x}}":                       "cannot be read",
		"{A: " + many(maxSecretBytes+1) + "}": "too large",
	} {
		_, err := ReadJob([]byte(job(bad)), o)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), many(100)) {
			t.Errorf("%.40s: %.200v; want %q", bad, err, want)
		}
	}
	o.Secret = read
	if _, err := ReadJob([]byte(job("{A: {file: gone}}")), o); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := ReadJob([]byte(strings.Replace(job("{A: x}"), "process\ncommand: [x]", "fake\ncommand: [x]", 1)), o); err != nil {
		t.Errorf("a fake job is refused its secrets: %v", err)
	}
	for _, kind := range []string{"vm\nimage: debian-12", "microvm\nimage: example.test/app"} {
		if _, err := ReadJob([]byte(strings.Replace(job("{A: x}"), "process\ncommand: [x]", kind, 1)), o); err != nil {
			t.Errorf("kind %s: %v", kind, err)
		}
	}
}

func many(n int) string { return strings.Repeat("s", n) }
