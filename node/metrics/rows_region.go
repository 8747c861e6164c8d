package metrics

import (
	"bytes"
	"encoding/csv"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// replica is one reading of the node's part in the raft group.
type replica struct {
	index                  uint64
	leaderKnown, leads     bool
	healthy                bool
	voters, standbys, want int
	leaves, missing        uint64
	signed                 uint64 // leaves of the newest checkpoint
	signedAt               time.Time
	witnesses              []witnessLag
	whole                  int
}

func (m *Metrics) readReplica() replica {
	r, view := m.cfg.Replica, m.cfg.Replica.View()
	leader, known := r.Leader()
	out := replica{
		index: view.Index(), leaderKnown: known, leads: known && leader == m.cfg.Self, healthy: r.Health() == nil,
		want: view.VotersWanted(), leaves: view.LedgerSize(),
	}
	here, whole, _ := r.LedgerStatus()
	out.missing, out.whole = here.Missing, whole
	for _, peer := range r.Peers() {
		if peer.Voter {
			out.voters++
		} else {
			out.standbys++
		}
	}
	readSigned(view, &out)
	return out
}

// witnessLag is how many leaves of the newest checkpoint a peer has not cosigned.
type witnessLag struct {
	peer   placement.RegionID
	behind uint64
}

// readSigned is how far the log is signed, and witnessed by the peers.
func readSigned(v *state.View, out *replica) {
	all := v.Checkpoints()
	if len(all) == 0 {
		return
	}
	out.signed, out.signedAt = all[0].Size, all[0].At
	for _, r := range v.Regions() {
		if r.Self || r.State != placement.PeerActive || r.WitnessKey == "" {
			continue
		}
		lag, name := witnessLag{r.ID, all[0].Size}, state.WitnessName(r.ID, r.Mesh)
		for _, c := range all {
			if slices.Contains(c.Witnesses, name) {
				lag.behind = all[0].Size - c.Size
				break
			}
		}
		out.witnesses = append(out.witnesses, lag)
	}
}

func replicaRows() []row[replica] {
	return []row[replica]{
		truth("consensus_leader", "1 if this node leads its region.", func(r replica) bool { return r.leads }),
		truth("consensus_leader_known", "1 if this node knows a leader of its region.", func(r replica) bool { return r.leaderKnown }),
		truth("consensus_healthy", "0 if this replica cannot go on truthfully: diverged, unknown command, wrong clock.", func(r replica) bool { return r.healthy }),
		gauge("consensus_applied_index", "The raft index that this replica has applied.", func(r replica) uint64 { return r.index }),
		newRow("consensus_peers", "Members of the raft configuration, this node included.", prometheus.GaugeValue, []string{"role"}, func(r replica, put func(float64, ...string)) {
			put(float64(r.voters), string(placement.RoleVoter))
			put(float64(r.standbys), string(placement.RoleStandby))
		}),
		gauge("consensus_voters_wanted", "Voters that the region is set to have.", func(r replica) int { return r.want }),
		counter("ledger_leaves_total", "Leaves of the region's ledger: commands decided, refused ones too.", func(r replica) uint64 { return r.leaves }),
		gauge("ledger_unsigned_leaves", "Leaves behind the newest signed checkpoint of the region's ledger.", func(r replica) uint64 { return r.leaves - min(r.signed, r.leaves) }),
		newRow("ledger_checkpoint_timestamp_seconds", "When the newest checkpoint was signed; absent before the first.", prometheus.GaugeValue, nil, func(r replica, put func(float64, ...string)) { instant(r.signedAt, put) }),
		newRow("ledger_witness_lag_leaves", "Leaves of the newest checkpoint that a federated region has not cosigned.", prometheus.GaugeValue, []string{"peer"}, func(r replica, put func(float64, ...string)) {
			for _, w := range r.witnesses {
				put(float64(w.behind), string(w.peer))
			}
		}),
		gauge("ledger_missing_leaves", "Leaves that this replica lacks and waits to get from its peers.", func(r replica) uint64 { return r.missing }),
		gauge("ledger_whole_replicas", "Voters that this replica last heard to hold every leaf.", func(r replica) int { return r.whole }),
	}
}

// regionRows are of the region as this replica has it: every replica shows
// them, so rules take the maximum by region.
func regionRows() []row[*state.View] {
	type V = *state.View
	return []row[V]{
		gauge("region_jobs", "Jobs that the region holds, ended ones included.", func(v V) int { return v.JobCount() }),
		gauge("region_jobs_pending", "Jobs that wait to be placed.", func(v V) int { return v.PendingCount() }),
		gauge("region_jobs_pending_limit", "Pending jobs beyond which submits get 429.", func(v V) int { return v.PendingLimit() }),
		gauge("region_tasks_live", "Tasks that are assigned, starting, running or unknown.", func(v V) int { return v.LiveTasks() }),
		newRow("region_nodes", "Nodes of the region by what operators decided.", prometheus.GaugeValue, []string{"state"}, func(v V, put func(float64, ...string)) {
			counts := map[placement.NodeState]int{}
			for _, n := range v.Nodes() {
				counts[n.State]++
			}
			spread([]placement.NodeState{placement.NodeReady, placement.NodeCordoned, placement.NodeDraining, placement.NodeDrained}, counts, put)
		}),
		newRow("region_nodes_contact", "Nodes of the region by whether the leader reaches them.", prometheus.GaugeValue, []string{"contact"}, func(v V, put func(float64, ...string)) {
			counts := map[placement.Contact]int{}
			for _, n := range v.Nodes() {
				counts[n.Contact]++
			}
			spread([]placement.Contact{placement.ContactAlive, placement.ContactUnknown}, counts, put)
		}),
		newRow("region_devices", "Accelerators of the region by health.", prometheus.GaugeValue, []string{"health"}, func(v V, put func(float64, ...string)) {
			counts := map[placement.DeviceHealth]int{}
			for _, n := range v.Nodes() {
				for _, d := range n.Inventory.Devices {
					counts[d.Health]++
				}
			}
			spread([]placement.DeviceHealth{placement.DeviceOK, placement.DeviceDegraded, placement.DeviceCordoned, placement.DeviceLost}, counts, put)
		}),
		gauge("region_devices_free", "Accelerators that a new task could be given now.", func(v V) int {
			free := 0
			for _, n := range v.Nodes() {
				if n.Offers() {
					free += len(n.FreeDevices())
				}
			}
			return free
		}),
	}
}

// lawRows are of the law pack that decides.
func lawRows() []row[*state.View] {
	dates := &packDates{}
	return []row[*state.View]{
		newRow("law_pack_info", "The law pack that decides, by the first 12 digits of its hash; always 1.", prometheus.GaugeValue, []string{"pack"}, func(v *state.View, put func(float64, ...string)) {
			if pack := v.Pack(); pack != nil {
				put(1, short(pack.Hash()))
			}
		}),
		newRow("law_pack_as_of_timestamp_seconds", "The newest day for which the pack's table of countries was checked.", prometheus.GaugeValue, nil, func(v *state.View, put func(float64, ...string)) {
			if pack := v.Pack(); pack != nil {
				instant(dates.asOf(pack), put)
			}
		}),
	}
}

// short is the part of a "sha256:..." hash that tells packs apart.
func short(hash string) string {
	const prefix, digits = len("sha256:"), 12
	if len(hash) < prefix+digits {
		return hash
	}
	return hash[prefix : prefix+digits]
}

// packDates remembers the date of the last pack: reading its tables again for
// every scrape would be most of what a scrape costs.
type packDates struct {
	mu   sync.Mutex
	hash string    // guarded by mu
	at   time.Time // guarded by mu
}

func (d *packDates) asOf(pack *residency.Pack) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hash != pack.Hash() {
		d.hash, d.at = pack.Hash(), newestDate(pack.Tables()["countries.csv"])
	}
	return d.at
}

// newestDate is the newest day in the column as_of of a table that the region
// has accepted; zero if it has no such column.
func newestDate(table []byte) time.Time {
	records, err := csv.NewReader(bytes.NewReader(table)).ReadAll()
	if err != nil || len(records) == 0 {
		return time.Time{}
	}
	column := slices.Index(records[0], "as_of")
	if column < 0 {
		return time.Time{}
	}
	var newest time.Time
	for _, record := range records[1:] {
		if day, err := time.Parse(time.DateOnly, record[column]); err == nil && day.After(newest) {
			newest = day
		}
	}
	return newest
}
