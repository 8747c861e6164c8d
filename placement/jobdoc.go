package placement

import "time"

// JobDocument is a [Job] as programs see it: field for field, in its order,
// with times that are null until they are known. A job that has not started has
// a started_at all the same. It reads back as a Job; the ledger keeps the Job
// itself.
type JobDocument struct {
	ID            JobID      `json:"id"`
	Name          string     `json:"name"`
	Kind          Kind       `json:"kind"`
	Tenant        TenantID   `json:"tenant"`
	Residency     string     `json:"residency"`
	Policy        []Layer    `json:"policy"`
	Spec          JobSpec    `json:"spec"`
	Region        RegionID   `json:"region"`
	Node          NodeID     `json:"node"`
	Status        JobStatus  `json:"status"`
	Reason        string     `json:"reason"`
	Code          string     `json:"reason_code,omitempty"`
	SubmittedAt   time.Time  `json:"submitted_at"`
	QueuedAt      time.Time  `json:"queued_at,omitzero"`
	StartedAt     *time.Time `json:"started_at"`
	EndedAt       *time.Time `json:"ended_at"`
	ExitCode      *int       `json:"exit_code"`
	EntryRegion   RegionID   `json:"entry_region"`
	Hops          int        `json:"hops"`
	Receipt       string     `json:"receipt"`
	Attempts      int        `json:"attempts"`
	Restarts      int        `json:"restarts"`
	NotBefore     time.Time  `json:"not_before,omitzero"`
	StopRequested bool       `json:"stop_requested,omitempty"`
	StopReason    string     `json:"stop_reason,omitempty"`
	Forward       *Forward   `json:"forward,omitempty"`
	Origin        RegionID   `json:"origin,omitempty"`
	Grant         string     `json:"grant,omitempty"`
	Index         uint64     `json:"index"`
}

// Document is the job for programs.
func (j *Job) Document() JobDocument {
	spec := j.Spec
	spec.Setup = spec.Setup.Hidden()
	return JobDocument{
		ID:            j.ID,
		Name:          j.Name,
		Kind:          j.Kind,
		Tenant:        j.Tenant,
		Residency:     j.Residency,
		Policy:        j.Policy,
		Spec:          spec,
		Region:        j.Region,
		Node:          j.Node,
		Status:        j.Status,
		Reason:        j.Reason,
		Code:          j.Code,
		SubmittedAt:   j.SubmittedAt,
		QueuedAt:      j.QueuedAt,
		StartedAt:     known(j.StartedAt),
		EndedAt:       known(j.EndedAt),
		ExitCode:      j.ExitCode,
		EntryRegion:   j.EntryRegion,
		Hops:          j.Hops,
		Receipt:       j.Receipt,
		Attempts:      j.Attempts,
		Restarts:      j.Restarts,
		NotBefore:     j.NotBefore,
		StopRequested: j.StopRequested,
		StopReason:    j.StopReason,
		Forward:       j.Forward,
		Origin:        j.Origin,
		Grant:         j.Grant,
		Index:         j.Index,
	}
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
