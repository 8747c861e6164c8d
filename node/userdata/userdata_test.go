package userdata

import (
	"errors"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for text, line := range map[string]int{
		"": 0, "#!/bin/sh\n[": 0, "#cloud-config": 0, "#cloud-config\n": 0, "#cloud-config\n{\"a\": [1]}\n": 0,
		"#cloud-config\na: &x [1]\nb: [*x, *x]\n": 0, "#cloud-config\n# nothing\n": 0,
		"users: []\n": -1, "#cloud-configure\n": -1, " #cloud-config\n": -1, "#cloud-config \r\na: 1\n": 0, "#cloud-config\n- a\n": 2, "#cloud-config\na: 1\nb: [\n": 3, "#cloud-config\njust words\n": 2,
		"#cloud-config\na: 1\n b: 2\nc: \"\n": 4, "#cloud-config\n" + strings.Repeat("#", Most): -1,
	} {
		err := Check(text)
		var e *Error
		switch {
		case line == 0 && err != nil:
			t.Errorf("%.40q: %v", text, err)
		case line != 0 && (!errors.As(err, &e) || e.Reason == "" || strings.Contains(e.Reason, "\n")):
			t.Errorf("%.40q: %v", text, err)
		case line > 0 && e.Line != line:
			t.Errorf("%.40q: line %d, want %d: %v", text, e.Line, line, err)
		}
	}
}

func TestNothingNestsForEver(t *testing.T) {
	for name, text := range map[string]string{
		"brackets": "#cloud-config\na: " + strings.Repeat("[", 60_000),
		"braces":   "#cloud-config\n" + strings.Repeat("{a: ", 30_000),
		"dashes":   "#cloud-config\na:\n" + strings.Repeat("- ", 30_000) + "x",
	} {
		if err := Check(text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("#cloud-config\na: &x [1]\nb: *x\n")
	f.Add("#cloud-config\n\t- {")
	f.Fuzz(func(t *testing.T, text string) { _ = Check(text) })
}
