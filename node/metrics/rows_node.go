package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovmesh/sovmesh/placement"
)

func (m *Metrics) nodeRows() []row[Node] {
	return []row[Node]{
		newRow("node_info", "The node and its program; always 1.", prometheus.GaugeValue, []string{"node", "role", "version"}, func(_ Node, put func(float64, ...string)) {
			put(1, string(m.cfg.Self), string(m.cfg.Role), m.cfg.Version)
		}),
		truth("node_ready", "1 if the node takes requests: it knows its record and a leader.", func(n Node) bool { return n.Ready }),
		truth("node_inventory_refused", "1 if the region refused the node's last report of what it has, and goes by an older one.", func(n Node) bool { return n.Refused }),
		newRow("certificate_not_after_timestamp_seconds", "When a certificate in use ends; they are renewed at half of their life.", prometheus.GaugeValue, []string{"use"}, func(n Node, put func(float64, ...string)) {
			instant(n.MeshUntil, put, "mesh")
			instant(n.AppUntil, put, "app")
		}),
	}
}

// instant puts seconds since 1970; a time that is not known is left out.
func instant(t time.Time, put func(float64, ...string), labels ...string) {
	if !t.IsZero() {
		put(float64(t.UnixMilli())/1000, labels...)
	}
}

func runnerRows() []row[Runner] {
	return []row[Runner]{
		newRow("runner_tasks", "Tasks of this node, ended ones until they are collected, by status.", prometheus.GaugeValue, []string{"status"}, func(r Runner, put func(float64, ...string)) {
			spread([]placement.TaskStatus{
				placement.TaskAssigned, placement.TaskStarting, placement.TaskRunning, placement.TaskComplete,
				placement.TaskFailed, placement.TaskStopped, placement.TaskLost, placement.TaskUnknown,
			}, r.Tasks, put)
		}),
		gauge("runner_tasks_stopping", "Tasks that were told to end and have not yet.", func(r Runner) int { return r.Stopping }),
		gauge("runner_tasks_unsaved", "Tasks whose record the disk does not take; they go on.", func(r Runner) int { return r.Unsaved }),
		gauge("runner_strays", "Running things of our drivers that no record knows; they are left alone.", func(r Runner) int { return r.Strays }),
		newRow("runner_moves_total", "Moves of running tasks, by mode and outcome: given to another node, kept here, taken from another node, refused here.", prometheus.CounterValue, []string{"mode", "outcome"}, func(r Runner, put func(float64, ...string)) {
			counts := make(map[[2]string]uint64)
			for _, m := range r.Moves {
				counts[[2]string{m.Mode, m.Outcome}] += m.Count
			}
			for _, mode := range []placement.MoveMode{placement.MoveLive, placement.MoveNearLive} {
				for _, outcome := range []string{"given", "kept", "taken", "refused"} {
					put(float64(counts[[2]string{string(mode), outcome}]), string(mode), outcome)
				}
			}
		}),
		newRow("runner_move_still_seconds", "How long the last task that was moved away stood still; 0 if none was.", prometheus.GaugeValue, nil, func(r Runner, put func(float64, ...string)) { put(r.Still.Seconds()) }),
		truth("runner_faulty", "1 if the runner cannot keep its records.", func(r Runner) bool { return r.Faulty }),
	}
}

func gatewayRows() []row[Gateway] {
	return []row[Gateway]{
		gauge("gateway_requests_running", "Inference requests on their way through this node.", func(g Gateway) int { return g.Running }),
		newRow("gateway_requests_total", "Inference requests that reached a model, by how they ended: answered whole, refused, or cut in the middle.", prometheus.CounterValue, []string{"result"}, func(g Gateway, put func(float64, ...string)) {
			put(float64(g.Answered), "answered")
			put(float64(g.Refused), "refused")
			put(float64(g.Cut), "cut")
		}),
		newRow("gateway_tokens_total", "Tokens as the model servers counted them.", prometheus.CounterValue, []string{"kind"}, func(g Gateway, put func(float64, ...string)) {
			put(float64(g.PromptTokens), "prompt")
			put(float64(g.CompletionTokens), "completion")
		}),
		counter("gateway_answers_uncounted_total", "Whole answers whose model server said nothing of tokens.", func(g Gateway) int64 { return g.Uncounted }),
	}
}

func receiptRows() []row[Receipts] {
	return []row[Receipts]{
		newRow("receipts_total", "Receipts of inference requests since the node started: kept, dropped (best-effort evidence that could not be kept), recovered after a crash, or missing, which is promised and lost.", prometheus.CounterValue, []string{"result"}, func(r Receipts, put func(float64, ...string)) {
			put(float64(r.Kept), "kept")
			put(float64(r.Dropped), "dropped")
			put(float64(r.Recovered), "recovered")
			put(float64(r.Missing), "missing")
		}),
		counter("receipts_segments_total", "Segments of receipts that this node brought into the ledger.", func(r Receipts) uint64 { return r.Segments }),
		gauge("receipts_segments_waiting", "Segments that are closed and not in the ledger yet; with too many, what requires evidence is refused.", func(r Receipts) int { return r.Waiting }),
	}
}

func linkRows() []row[[]Link] {
	each := func(name, help string, value func(Link, func(float64, ...string))) row[[]Link] {
		return newRow(name, help, prometheus.GaugeValue, []string{"peer"}, func(links []Link, put func(float64, ...string)) {
			for _, l := range links {
				value(l, put)
			}
		})
	}
	return []row[[]Link]{
		each("link_up", "1 if the federated region answered this node the last time; 0 is unknown, never gone.", func(l Link, put func(float64, ...string)) {
			put(float64(bit(l.Up)), string(l.Peer))
		}),
		each("link_changed_timestamp_seconds", "When contact with the region was last found or lost.", func(l Link, put func(float64, ...string)) {
			instant(l.Since, put, string(l.Peer))
		}),
		each("link_rtt_seconds", "How long the region's last answer took, question and signature check included.", func(l Link, put func(float64, ...string)) {
			if l.RTT > 0 {
				put(l.RTT.Seconds(), string(l.Peer))
			}
		}),
		each("link_law_pack_same", "1 if the region decides by the law pack that this one decides by.", func(l Link, put func(float64, ...string)) {
			put(float64(bit(l.SamePack)), string(l.Peer))
		}),
	}
}
