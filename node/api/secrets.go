package api

import (
	"fmt"
	"net/http"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// CodeSecrets is the answer where secrets cannot be sealed or opened.
const CodeSecrets = "secrets.unsealed"

// sealSecrets seals what a job brings to the region that takes it, before any of
// it is proposed: no command, leaf, snapshot or log ever holds the values.
func sealSecrets(v *state.View, job *placement.Job) error {
	if job.Spec.Setup == nil || len(job.Spec.Setup.Secrets) == 0 {
		return nil
	}
	self := v.Self()
	if self == nil || self.SealKey == "" {
		return newProblem(http.StatusConflict, CodeSecrets, "this region has no key to seal secrets with", "submit the job without secrets, or to a region that was founded with one")
	}
	setup := *job.Spec.Setup
	setup.Secrets = make(map[string]string, len(job.Spec.Setup.Secrets))
	for name, value := range job.Spec.Setup.Secrets {
		sealed, err := identity.Seal(self.SealKey, placement.SecretPurpose(job.ID, name), []byte(value))
		if err != nil {
			return fmt.Errorf("the secret %s: %w", name, err)
		}
		setup.Secrets[name] = sealed
	}
	job.Spec.Setup = &setup
	return nil
}

// taskSecrets opens the secrets of one task for the node that runs it, and for no
// other, while the task is live.
func taskSecrets(s *Server, c *call) error {
	id := placement.TaskID(c.r.PathValue("job") + "/" + c.r.PathValue("rest"))
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	t := v.Task(id)
	if t == nil || t.Node != c.caller.Node || !t.Status.Live() || t.Stop {
		return newProblem(http.StatusForbidden, CodeRole, "task "+quoteWord(string(id))+" is not one that node "+string(c.caller.Node)+" is to run", "")
	}
	j := v.Job(t.Job)
	out := map[string][]byte{}
	if j == nil || j.Spec.Setup == nil {
		return c.writeJSON(http.StatusOK, out)
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	for name, sealed := range j.Spec.Setup.Secrets {
		if out[name], err = a.Unseal(placement.SecretPurpose(j.ID, name), sealed); err != nil {
			return newProblem(http.StatusConflict, CodeSecrets, "the secret "+quoteWord(name)+" of job "+string(j.ID)+" cannot be opened here", "submit the job again")
		}
	}
	s.cfg.Log.Info("secrets were handed to the node of their task", "node", c.caller.Node, "task", id, "secrets", len(out))
	return c.writeJSON(http.StatusOK, out)
}
