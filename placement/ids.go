package placement

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RegionID names one region: one raft group, one gossip pool, one CA, one
// jurisdiction. It is a key, not a label: lower case, 1 to 63 letters, digits
// and hyphens, no hyphen at either end.
type RegionID string

// NodeID names a node within its region; the grammar is that of [RegionID].
type NodeID string

// JobID is "<home region>.<26 characters>": the second part is a ULID
// (https://github.com/ulid/spec) in lower case, so the ids of one region sort
// by the time they were accepted.
type JobID string

// TaskID is "<job id>/<ordinal>.<attempt>": one running copy of a job.
type TaskID string

// TenantID names who pays for and owns a job. Tenants of another region are
// seen as "<region>/<tenant>", where <region> is the one that speaks: a job that
// was landed there by a third region keeps that one's name in <tenant>, as in
// "ber-1/iad-1/acme".
type TenantID string

// tenantDepth is how many regions a tenant's name may have gone through: the
// one that granted a job, and the one that forwards it.
const tenantDepth = 2

// Valid reports whether t names a tenant, of this region or of another.
func (t TenantID) Valid() bool {
	parts := strings.Split(string(t), "/")
	for _, p := range parts {
		if !ValidName(p) {
			return false
		}
	}
	return len(parts) <= 1+tenantDepth
}

// Region is the region that speaks for the tenant; empty for one of the own region.
func (t TenantID) Region() RegionID {
	region, _, foreign := strings.Cut(string(t), "/")
	if !foreign {
		return ""
	}
	return RegionID(region)
}

// EveryTenant names all tenants of another region together, for quotas and
// tags. It is no tenant: no job is of it.
func EveryTenant(region RegionID) TenantID { return TenantID(string(region) + "/*") }

// ValidName reports whether s may name a region, a site, a node or a tenant.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewJobID makes the id of a job accepted by home at the given time. It reads
// the operating system's randomness, so it is called by proposers only, never
// while a command is applied.
func NewJobID(home RegionID, at time.Time) JobID {
	var b [16]byte
	ms := uint64(at.UnixMilli())
	binary.BigEndian.PutUint64(b[:8], ms<<16)
	_, _ = rand.Read(b[6:])
	// 128 bits are written as 130, the two first ones zero, as ULID does.
	var wide [17]byte
	for i := len(b) - 1; i >= 0; i-- {
		wide[i+1] |= b[i] << 6
		wide[i] |= b[i] >> 2
	}
	return JobID(string(home) + "." + crockford.EncodeToString(wide[:])[:26])
}

// Home is the region whose ledger accepted the job's body.
func (id JobID) Home() RegionID {
	home, _, _ := strings.Cut(string(id), ".")
	return RegionID(home)
}

// Valid reports whether id has the form that [NewJobID] gives.
func (id JobID) Valid() bool {
	home, rest, ok := strings.Cut(string(id), ".")
	if !ok || !ValidName(home) || len(rest) != 26 {
		return false
	}
	for i := 0; i < len(rest); i++ {
		if !strings.ContainsRune("0123456789abcdefghjkmnpqrstvwxyz", rune(rest[i])) {
			return false
		}
	}
	return true
}

// Task makes the id of the job's copy number ordinal in its given attempt.
func (id JobID) Task(ordinal, attempt int) TaskID {
	return TaskID(fmt.Sprintf("%s/%d.%d", id, ordinal, attempt))
}

// Member reads the number of the copy and the attempt that [JobID.Task] wrote;
// false for any other text.
func (id TaskID) Member() (ordinal, attempt int, ok bool) {
	_, rest, _ := strings.Cut(string(id), "/")
	first, second, _ := strings.Cut(rest, ".")
	ordinal, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	attempt, err = strconv.Atoi(second)
	return ordinal, attempt, err == nil && id == id.Job().Task(ordinal, attempt) && ordinal >= 0 && attempt >= 0
}

// Job is the job that the task belongs to.
func (id TaskID) Job() JobID {
	job, _, _ := strings.Cut(string(id), "/")
	return JobID(job)
}
