//go:build linux

package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/outputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// ownedImage is one that runs as a user of its own.
const ownedImage = "example.test/owned:1"

func loadOwned(t *testing.T, e *enginetest.Engine) {
	t.Helper()
	img, err := enginetest.Image()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.User = "4321:4321"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	e.Load(t, ownedImage, img)
}

// A container leaves files by whatever user it has, and what is kept of them is
// gathered and the rest removed; the node's files are not among them, whatever it
// lays there.
func TestOutputsAreGathered(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the node's own"), 0o644); err != nil {
		t.Fatal(err)
	}
	const at = runner.OutputsPath
	commands := app("each", "env", "write "+at+"/model", "mkdir "+at+"/logs", "write "+at+"/logs/one",
		"link "+secret+" "+at+"/link", "link / "+at+"/root", "link ../.. "+at+"/logs/up", "name /workload "+at+"/name",
		"pipe "+at+"/pipe", "mkdir "+at+"/shut", "write "+at+"/shut/two", "close "+at+"/shut/two", "close "+at+"/shut")
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		loadOwned(t, e)
		for n, who := range []struct{ name, image, user string }{
			{"the image's root", appImage, ""}, {"the image's own user", ownedImage, ""}, {"the job's user", appImage, "1234:1235"}, {"the job's user over the image's", ownedImage, "1234"},
		} {
			t.Run(who.name, func(t *testing.T) {
				s := outputs.New(filepath.Join(t.TempDir(), "outputs"))
				d := newDriver(t, e, t.TempDir(), nil)
				h := start(t, d, task(n, func(spec *runner.Spec) {
					dir, err := s.Make(spec.Task)
					if err != nil {
						t.Fatal(err)
					}
					spec.OutputsDir, spec.Image, spec.Setup.User = dir, who.image, who.user
				}, commands...))
				exit, said := wait(t, d, h), printed(t, d, h)
				// Nothing has two names across two mounts.
				if exit.Code != 0 || strings.Count(said, "error:") != 1 || !strings.Contains(said, "cross-device") || !strings.Contains(said, runner.OutputsEnv+"="+at+"\n") {
					t.Errorf("it ends with %+v and prints %s", exit, said)
				}
				list, err := s.Gather(within(t), h.Task, placement.Outputs{})
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, f := range list.Files {
					names = append(names, f.Name)
					if f.Size != int64(len("written\n")) {
						t.Errorf("%+v is not what was written", f)
					}
				}
				if got := strings.Join(names, " "); got != "logs/one model shut/two" || list.LeftOut != 4 {
					t.Errorf("kept: %q and not %d (%s)", got, list.LeftOut, list.Why)
				}
				if err := s.Drop(within(t), h.Task); err != nil {
					t.Error(err)
				}
				if err := d.Destroy(within(t), h); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// An agent that could not read or remove what a container writes starts none.
func TestOutputsThatCannotBeKeptAreRefused(t *testing.T) {
	for _, tt := range []struct {
		uid      int
		rootless bool
		why      string
	}{{1000, false, "agent is not root"}, {1000, true, "agent is not root"}, {0, true, "engine is not root's"}, {0, false, ""}} {
		why := noOutputs(tt.uid, &engineFacts{Rootless: tt.rootless})
		if (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
			t.Errorf("%+v: %q", tt, why)
		}
		if why == "" {
			continue
		}
		s := task(0, func(s *runner.Spec) { s.OutputsDir = t.TempDir() })
		refused(t, addOutputs(nil, &s, s.Setup, why), "keeps no outputs of container jobs", tt.why)
		s.OutputsDir = ""
		if err := addOutputs(nil, &s, s.Setup, why); err != nil {
			t.Errorf("a job without outputs: %v", err)
		}
	}
}

// Who has the engine's socket is who it runs as: not each engine says it.
func TestARootlessEngineIsKnown(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		f, err := d.ask(within(t))
		if err != nil || f.Rootless {
			t.Errorf("%+v, %v", f, err)
		}
		if peer := peerOf(e.Socket()); peer == nil || peer.Uid != 0 {
			t.Errorf("it runs as %+v", peer)
		}
	})
}
