package api

import (
	"net/http"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// operations is the table: every route of both listeners, with who may use it.
func operations() []operation {
	rows := append(jobOps(), regionOps()...)
	rows = append(rows, adminOps()...)
	rows = append(rows, nodeOps()...)
	rows = append(rows, openOps()...)
	for i := range rows {
		// What needs the region's state is passed on by a worker, which has none.
		rows[i].Relay = rows[i].Relay || !rows[i].NoState
	}
	return append(rows, meshOps()...)
}

func jobOps() []operation {
	logs := []parameter{{"follow", "boolean", "go on until the task ends"}, {"from", "integer", "offset in bytes"}, {"task", "string", "of an earlier task"}}
	return []operation{
		{Method: http.MethodPost, Path: Prefix + "/jobs", ID: "submitJob", Summary: "Submit a job; its residency header is judged before its body is read", Verb: VerbSubmit, Grant: grantSubmit, Unread: true, In: jobDocument{}, Out: placement.JobDocument{}, Handler: submit},
		{Method: http.MethodGet, Path: Prefix + "/jobs", ID: "listJobs", Summary: "List the jobs that you may see", Verb: VerbRead, Out: Page[placement.JobDocument]{}, Query: append(paging(), parameter{"status", "string", "only those"}, parameter{"tenant", "string", "only its"}, parameter{"node", "string", "only those on it"}), Handler: listJobs},
		{Method: http.MethodPost, Path: Prefix + "/jobs/check", ID: "checkJob", Summary: "Would it be placed, where, why not: nothing is submitted. The body may be a whole job document too", Verb: VerbRead, In: CheckRequest{}, Out: CheckReport{}, Handler: checkJob},
		{Method: http.MethodPost, Path: Prefix + "/resolve", ID: "resolve", Summary: "Where may this go: tag and size only, no payload", Verb: VerbRead, In: ResolveRequest{}, Out: Resolution{}, Handler: resolve},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}", ID: "getJob", Summary: "One job, by its id or a unique prefix", Verb: VerbRead, Grant: grantRead, Out: placement.JobDocument{}, Query: paging()[2:], Handler: getJob},
		{Method: http.MethodDelete, Path: Prefix + "/jobs/{id}", ID: "stopJob", Summary: "Ask for a job to end", Verb: VerbStop, Grant: grantStop, Out: placement.JobDocument{}, Query: []parameter{{"reason", "string", "shown with the job"}}, Handler: stopJob},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/explain", ID: "explainJob", Summary: "Why the job is where it is, or why it waits", Verb: VerbRead, Grant: grantRead, Out: Explanation{}, Handler: explainJob},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/logs", ID: "jobLogs", Summary: "The job's output, raw", Verb: VerbRead, Grant: grantLogs, Stream: "text/plain", Query: logs, Handler: jobLogs},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/outputs", ID: "jobOutputs", Summary: "The files that the job's task left: name, size and digest of each", Verb: VerbRead, Grant: grantLogs, Out: JobOutputs{}, Query: logs[2:], Handler: jobOutputs},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/outputs/{digest}", ID: "jobOutput", Summary: "One of them, raw, by its digest", Verb: VerbRead, Grant: grantLogs, Stream: mediaOutput, Query: logs[2:], Handler: jobOutput},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/receipt", ID: "jobReceipt", Summary: "What the ledger holds of the job; with Accept: text/plain or format=proof the file that is verified offline", Verb: VerbRead, Grant: grantRead, Out: Receipt{}, Query: []parameter{{"format", "string", "json, or proof: c2sp.org/tlog-proof documents, one for each leaf"}}, Handler: jobReceipt},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/exec", ID: "execJob", Summary: "Run a further command in the job's task: frames in both directions; recorded in the ledger", Verb: VerbReach, Duplex: true, Stream: MediaFrames, Handler: reachJob(ReachExec)},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/console", ID: "jobConsole", Summary: "The serial console of the job's task: frames in both directions; recorded in the ledger", Verb: VerbReach, Duplex: true, Stream: MediaFrames, Handler: reachJob(ReachConsole)},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/connect", ID: "connectJob", Summary: "A TCP port of the job's task: frames in both directions; recorded in the ledger", Verb: VerbReach, Duplex: true, Stream: MediaFrames, Query: []parameter{{"port", "integer", "of the task"}}, Handler: reachJob(ReachConnect)},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/pause", ID: "pauseJob", Summary: "Hold the job's task still", Verb: VerbReach, Out: HoldAnswer{}, Handler: holdJob("pause")},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/resume", ID: "resumeJob", Summary: "Let it go on", Verb: VerbReach, Out: HoldAnswer{}, Handler: holdJob("resume")},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/snapshot", ID: "snapshotJob", Summary: "Copy the state of the job's task without ending it: a tar archive, manifest.json first, whose hash is in the ledger", Verb: VerbReach, Stream: MediaSnapshot, Handler: snapshotJob},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/snapshots", ID: "listSnapshots", Summary: "The named snapshots of the job's disks, which lie beside them on its node", Verb: VerbReach, Out: DiskSnapshots{}, Handler: jobDisks(DisksList)},
		{Method: http.MethodPut, Path: Prefix + "/jobs/{id}/snapshots/{name}", ID: "takeSnapshot", Summary: "Keep a copy of the job's disks by a name, of one instant, while it runs; recorded in the ledger", Verb: VerbReach, Out: DiskSnapshots{}, Handler: jobDisks(DisksTake)},
		{Method: http.MethodDelete, Path: Prefix + "/jobs/{id}/snapshots/{name}", ID: "removeSnapshot", Summary: "Remove one of them; recorded in the ledger", Verb: VerbReach, Out: DiskSnapshots{}, Handler: jobDisks(DisksRemove)},
		{Method: http.MethodPost, Path: Prefix + "/jobs/{id}/snapshots/{name}/restore", ID: "restoreSnapshot", Summary: "Set the job's disks back to one of them, and begin its machine anew; recorded in the ledger", Verb: VerbReach, Out: DiskSnapshots{}, Handler: jobDisks(DisksRestore)},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/isolation", ID: "jobIsolation", Summary: "What holds the job's task in, in words, what it was refused, and who reached into it", Verb: VerbRead, Out: Isolation{}, Handler: jobIsolation},
		{Method: http.MethodGet, Path: Prefix + "/jobs/{id}/drift", ID: "jobDrift", Summary: "How the job's task differs from what was declared, now", Verb: VerbRead, Out: DriftReport{}, Handler: jobDrift},
		{Method: http.MethodGet, Path: Prefix + "/ledger/receipts/{leaf}", ID: "leafReceipt", Summary: "What the ledger says in one leaf, for those who see all tenants' jobs; with Accept: text/plain or format=proof the file that is verified offline", Verb: VerbRead, Out: Receipt{}, Query: []parameter{{"origin", "string", "the log that is meant; another one is refused"}, {"format", "string", "json, or proof: a c2sp.org/tlog-proof document"}}, Handler: leafReceipt},
		{Method: http.MethodGet, Path: Prefix + "/events", ID: "events", Summary: "Changes as server-sent events", Verb: VerbRead, Stream: "text/event-stream", Query: []parameter{{"index", "integer", "begin after it; or the header Last-Event-ID"}}, Handler: events},
		{Method: http.MethodGet, Path: Prefix + "/directory", ID: "directory", Summary: "The signed region directory: what a client needs to judge and land by itself", Verb: VerbAny, Out: SignedDirectory{}, Handler: directory},
		{Method: http.MethodPost, Path: Prefix + "/grants", ID: "createGrant", Summary: "A grant for one job at another region", Verb: VerbRead, In: GrantRequest{}, Out: Grant{}, Handler: grants},
	}
}

func regionOps() []operation {
	return []operation{
		{Method: http.MethodGet, Path: Prefix + "/regions", ID: "listRegions", Summary: "This region and its peers", Verb: VerbRead, Out: Page[RegionStatus]{}, Query: paging(), Handler: listRegions},
		{Method: http.MethodGet, Path: Prefix + "/regions/{name}", ID: "getRegion", Summary: "One region", Verb: VerbRead, Out: RegionStatus{}, Handler: getRegion},
		{Method: http.MethodPost, Path: Prefix + "/regions/{name}/invite", ID: "inviteRegion", Summary: "An invitation for another region, shown once", Verb: VerbAdmin, Out: Invitation{}, Handler: inviteRegion},
		{Method: http.MethodPost, Path: Prefix + "/regions/join", ID: "joinRegion", Summary: "Answer an invitation; the inviter's fingerprint was compared", Verb: VerbAdmin, In: JoinRegionRequest{}, Out: JoinRegionResult{}, Handler: joinRegion},
		{Method: http.MethodPost, Path: Prefix + "/regions/{name}/approve", ID: "approveRegion", Summary: "Pin a region that answered; its fingerprint was compared", Verb: VerbAdmin, In: ApproveRequest{}, Out: RegionStatus{}, Handler: approveRegion},
		{Method: http.MethodDelete, Path: Prefix + "/regions/{name}", ID: "leaveRegion", Summary: "End a federation", Verb: VerbAdmin, Out: RegionStatus{}, Query: []parameter{{"dead", "boolean", "the other side is gone and cannot confirm"}}, Handler: leaveRegion},
		{Method: http.MethodPut, Path: Prefix + "/regions/policy", ID: "setRegionPolicy", Summary: "The export and import rules", Verb: VerbAdmin, In: RegionPolicyRequest{}, Out: RegionStatus{}, Handler: setRegionPolicy},
		{Method: http.MethodGet, Path: Prefix + "/ledger/policy", ID: "trustPolicy", Summary: "The trust policy for auditors: logs, witnesses, roots (c2sp.org/tlog-policy)", Verb: VerbRead, Stream: "text/plain", Query: []parameter{{"quorum", "integer", "how many witnesses have to cosign; without it a majority of those possible"}}, Handler: trustPolicy},
		{Method: http.MethodGet, Path: Prefix + "/gpus", ID: "listGPUs", Summary: "The devices of the region", Verb: VerbRead, Out: Page[GPU]{}, Query: paging(), Handler: listGPUs},
		{Method: http.MethodGet, Path: Prefix + "/tasks", ID: "listTasks", Summary: "The live tasks of every tenant", Verb: VerbOperate, Out: Page[placement.Task]{}, Query: append(paging(), parameter{"node", "string", "only those on it"}), Handler: listTasks},
		{Method: http.MethodGet, Path: Prefix + "/gpus/defrag", ID: "planDefrag", Summary: "The few moves that bring the most free GPUs together; nothing is changed", Verb: VerbOperate, Out: DefragReport{}, Query: []parameter{{"moves", "integer", "at most so many; 10 unless said, 100 at most"}}, Handler: planDefrag},
		{Method: http.MethodGet, Path: Prefix + "/gpus/{uuid}", ID: "getGPU", Summary: "One device, by its UUID or a unique beginning of it", Verb: VerbRead, Out: GPU{}, Handler: getGPU},
		{Method: http.MethodGet, Path: Prefix + "/status", ID: "status", Summary: "The region at a glance", Verb: VerbRead, Out: Status{}, Handler: getStatus},
		{Method: http.MethodGet, Path: Prefix + "/whoami", ID: "whoami", Summary: "Who you are to this region", Verb: VerbAny, Out: Whoami{}, Handler: whoami},
	}
}

func adminOps() []operation {
	return []operation{
		{Method: http.MethodGet, Path: Prefix + "/tenants", ID: "listTenants", Summary: "The tenants that were set", Verb: VerbRead, Out: Page[state.Tenant]{}, Query: paging(), Handler: listTenants},
		{Method: http.MethodPut, Path: Prefix + "/tenants/{tenant}", ID: "setTenant", Summary: "Create or change a tenant", Verb: VerbAdmin, In: state.Tenant{}, Out: state.Tenant{}, Handler: setTenant},
		{Method: http.MethodGet, Path: Prefix + "/law", ID: "listLaw", Summary: "The law packs that the region holds", Verb: VerbAny, Out: Page[LawPackInfo]{}, Query: paging(), Handler: listLaw},
		{Method: http.MethodGet, Path: Prefix + "/law/{hash}", ID: "getLaw", Summary: "The tables of a law pack", Verb: VerbAny, Out: LawTables{}, Handler: getLaw},
		{Method: http.MethodPost, Path: Prefix + "/law", ID: "importLaw", Summary: "Bring a law pack into the region", Verb: VerbAdmin, In: LawTables{}, Out: LawPackInfo{}, Handler: importLaw},
		{Method: http.MethodPost, Path: Prefix + "/law/{hash}/activate", ID: "activateLaw", Summary: "Make a held pack the one that decides", Verb: VerbAdmin, Out: LawPackInfo{}, Handler: activateLaw},
		{Method: http.MethodGet, Path: Prefix + "/tokens", ID: "listTokens", Summary: "The bearer tokens, without their secrets", Verb: VerbAdmin, Out: Page[state.Token]{}, Query: paging(), Handler: listTokens},
		{Method: http.MethodPost, Path: Prefix + "/tokens", ID: "createToken", Summary: "Make a bearer token; its secret is shown this once", Verb: VerbAdmin, In: TokenRequest{}, Out: NewToken{}, Handler: createToken},
		{Method: http.MethodDelete, Path: Prefix + "/tokens/{id}", ID: "revokeToken", Summary: "End a token at once", Verb: VerbAdmin, Handler: revokeToken},
	}
}

func nodeOps() []operation {
	drain := []parameter{{"plan", "boolean", "only show every task's fate"}}
	return []operation{
		{Method: http.MethodGet, Path: Prefix + "/nodes", ID: "listNodes", Summary: "The nodes of the region", Verb: VerbRead, Out: Page[placement.Node]{}, Query: paging(), Handler: listNodes},
		{Method: http.MethodGet, Path: Prefix + "/nodes/{name}", ID: "getNode", Summary: "One node with its tasks", Verb: VerbRead, Out: NodeDetail{}, Handler: getNode},
		{Method: http.MethodDelete, Path: Prefix + "/nodes/{name}", ID: "removeNode", Summary: "End a node's membership", Verb: VerbOperate, Handler: nodeChange(func(n placement.NodeID) state.Command { return state.RemoveNode{Node: n} })},
		{Method: http.MethodPost, Path: Prefix + "/nodes/{name}/cordon", ID: "cordonNode", Summary: "Keep new tasks off a node", Verb: VerbOperate, Out: placement.Node{}, Handler: nodeChange(func(n placement.NodeID) state.Command { return state.CordonNode{Node: n} })},
		{Method: http.MethodPost, Path: Prefix + "/nodes/{name}/resume", ID: "resumeNode", Summary: "End a cordon or a drain", Verb: VerbOperate, Out: placement.Node{}, Handler: nodeChange(func(n placement.NodeID) state.Command { return state.ResumeNode{Node: n} })},
		{Method: http.MethodPost, Path: Prefix + "/nodes/{name}/drain", ID: "drainNode", Summary: "Empty a node", Verb: VerbOperate, In: DrainRequest{}, Out: DrainReport{}, Query: drain, Handler: drainNode},
		{Method: http.MethodPost, Path: Prefix + "/nodes/drain", ID: "drainNodes", Summary: "Empty several nodes together, all or none: nothing moves from one of them onto another", Verb: VerbOperate, In: DrainSetRequest{}, Out: DrainSetReport{}, Query: drain, Handler: drainNodes},
		{Method: http.MethodGet, Path: Prefix + "/nodes/{name}/drain", ID: "getDrain", Summary: "How far a drain has come", Verb: VerbRead, Out: DrainReport{}, Query: paging()[2:], Handler: getDrain},
		{Method: http.MethodGet, Path: Prefix + "/nodes/{name}/gpus", ID: "liveGPUs", Summary: "What the devices of a node do now, as the node itself says; never another tenant's load", Verb: VerbRead, Out: NodeGPUs{}, Handler: liveGPUs},
		{Method: http.MethodPost, Path: Prefix + "/nodes/{name}/gpus/{uuid}/clear", ID: "clearGPU", Summary: "Record that what stands against a device is dealt with; all stands for every device of the node", Verb: VerbOperate, In: ClearDeviceRequest{}, Out: Page[GPU]{}, Handler: clearGPU},
		{Method: http.MethodPost, Path: Prefix + "/nodes/tokens", ID: "createNodeToken", Summary: "A join token for one node, shown once", Verb: VerbAdmin, In: NodeTokenRequest{}, Out: NodeToken{}, Handler: createNodeToken},
	}
}

// openOps need no bearer token: what opens them is in their body, or they show
// nothing that is not public.
func openOps() []operation {
	return []operation{
		{Method: http.MethodPost, Path: Prefix + "/nodes/join", ID: "joinNode", Summary: "Join the region as a node, by a join token", Verb: VerbPublic, In: JoinRequest{}, Out: JoinAnswer{}, Handler: joinNode},
		{Method: http.MethodGet, Path: Prefix + "/federation/bundle", ID: "federationBundle", Summary: "What this region says about itself; compare its fingerprint", Verb: VerbPublic, Out: RegionCard{}, Handler: federationBundle},
		{Method: http.MethodPost, Path: Prefix + "/federation/join", ID: "federationJoin", Summary: "Answer an invitation of this region", Verb: VerbPublic, In: FederationJoin{}, Out: JoinRegionResult{}, Handler: federationJoin},
		{Method: http.MethodGet, Path: Prefix + "/ledger/checkpoint", ID: "ledgerCheckpoint", Summary: "The newest signed checkpoint of the region's ledger (c2sp.org/tlog-tiles)", Verb: VerbPublic, Foreign: true, Stream: "text/plain", Handler: checkpoint},
		{Method: http.MethodGet, Path: Prefix + "/ledger/tile/{path...}", ID: "ledgerTile", Summary: "A tile of hashes: L/N or L/N.p/W", Verb: VerbPublic, Foreign: true, Stream: "application/octet-stream", Handler: hashTile},
		{Method: http.MethodGet, Path: Prefix + "/ledger/tile/entries/{path...}", ID: "ledgerEntries", Summary: "A bundle of leaves: N or N.p/W", Verb: VerbAudit, Stream: "application/octet-stream", Handler: entryBundle},
		{Method: http.MethodDelete, Path: Prefix + "/audit/openings", ID: "eraseOpenings", Summary: "Erase what the leaves about a job commit to, on every replica; the leaves and their proofs stay", Verb: VerbAdmin, Out: Erasure{}, Query: []parameter{{"job", "string", "the whole id of a job that is over"}}, Handler: eraseOpenings},
		{Method: http.MethodGet, Path: Prefix + "/audit/export", ID: "auditExport", Summary: "An evidence pack of the region, for verification offline", Verb: VerbAudit, Stream: MediaPack, Query: []parameter{{"from", "string", "RFC 3339; leaves from then on"}, {"to", "string", "RFC 3339; leaves up to then"}, {"job", "string", "with what the leaves about this job commit to"}, {"tenant", "string", "with what the leaves about this tenant's jobs commit to"}, {"acts", "boolean", "with who administered, and where from"}, {"regime", "string", "for reports: nis2, ai-act, gdpr, joined by commas"}}, Handler: auditExport},
		{Method: http.MethodPost, Path: Prefix + "/witness/add-checkpoint", ID: "witnessAdd", Summary: "Cosign a checkpoint of an active peer's ledger (c2sp.org/tlog-witness)", Verb: VerbPublic, Foreign: true, Stream: "text/plain", Handler: witnessAdd},
		{Method: http.MethodGet, Path: Prefix + "/witness/{sum}/checkpoint", ID: "witnessSeen", Summary: "The newest checkpoint that this region cosigned of a ledger, by the hex SHA-256 of its origin", Verb: VerbPublic, Foreign: true, Stream: "text/plain", Handler: witnessSeen},
		{Method: http.MethodGet, Path: Prefix + "/receipts/{id}", ID: "inferenceReceipt", Summary: "The receipt of an inference request, to the tenant whose request it was; kept as a file, it is verified offline", Verb: VerbPublic, NoState: true, Out: receipt.Document{}, Handler: inferenceReceipt},
		{Method: http.MethodGet, Path: Prefix + "/openapi.json", ID: "openapi", Summary: "This document", Verb: VerbPublic, NoState: true, Stream: "application/json", Handler: serveDocument},
		{Method: http.MethodGet, Path: "/healthz", ID: "healthz", Summary: "The process answers", Verb: VerbPublic, NoState: true, Stream: "text/plain", Handler: health},
		{Method: http.MethodGet, Path: "/readyz", ID: "readyz", Summary: "The node takes requests", Verb: VerbPublic, NoState: true, Stream: "text/plain", Handler: ready},
	}
}

// meshOps are for certificates: of this region's nodes, or of other regions'
// where Foreign says so.
func meshOps() []operation {
	return []operation{
		{Method: http.MethodGet, Path: MeshPrefix + "/hello", ID: "hello", Summary: "A node's clock", Verb: VerbNode, NoState: true, Out: Hello{}, Handler: hello},
		{Method: http.MethodPost, Path: MeshPrefix + "/propose", ID: "propose", Summary: "Propose an encoded command", Verb: VerbNode, Handler: proposeRaw},
		{Method: http.MethodPost, Path: MeshPrefix + "/judge", ID: "judge", Summary: "Would the body of a request with these headers be read", Verb: VerbPublic, Grant: grantSubmit, Relay: true, Handler: judgeRelayed},
		{Method: http.MethodGet, Path: MeshPrefix + "/facts", ID: "facts", Summary: "What a node without a replica may know", Verb: VerbNode, Out: Facts{}, Query: []parameter{{"have", "string", "digests of the tables that the caller has, in their order"}, {"want", "string", "digests of tables to send whole"}, {"wait", "string", "hold the answer until the tables are others, at most this long"}}, Handler: facts},
		{Method: http.MethodPost, Path: MeshPrefix + "/certificate", ID: "certificate", Summary: "Renew the caller's certificates", Verb: VerbNode, In: CertificateRequest{}, Out: CertificateAnswer{}, Handler: renewCertificate},
		{Method: http.MethodGet, Path: MeshPrefix + "/authority", ID: "authority", Summary: "The region's CA, for voters", Verb: VerbVoter, Out: AuthoritySecrets{}, Handler: authoritySecrets},
		{Method: http.MethodGet, Path: MeshPrefix + "/tasks/{job}/{rest}/secrets", ID: "taskSecrets", Summary: "The secrets of a task of the caller's own that is to start, from a voter", Verb: VerbNode, Out: map[string][]byte{}, Handler: taskSecrets},
		{Method: http.MethodGet, Path: MeshPrefix + "/keyring", ID: "keyring", Summary: "The gossip keys", Verb: VerbNode, Out: Keyring{}, Handler: keyring},
		{Method: http.MethodPut, Path: MeshPrefix + "/keyring", ID: "offerKeyring", Summary: "Take the gossip keys, from a voter", Verb: VerbNode, NoState: true, In: Keyring{}, Out: Keyring{}, Handler: offerKeyring},
		{Method: http.MethodGet, Path: MeshPrefix + "/tasks/{job}/{rest}/logs", ID: "taskLogs", Summary: "The output of a task of this node", Verb: VerbNode, NoState: true, Stream: "text/plain", Handler: taskOutput},
		{Method: http.MethodGet, Path: MeshPrefix + "/tasks/{job}/{rest}/outputs", ID: "taskOutputs", Summary: "The files that a task of this node left", Verb: VerbNode, NoState: true, Out: JobOutputs{}, Handler: taskOutputs},
		{Method: http.MethodGet, Path: MeshPrefix + "/tasks/{job}/{rest}/outputs/{digest}", ID: "taskOutput", Summary: "One of them", Verb: VerbNode, NoState: true, Stream: mediaOutput, Handler: taskOutputFile},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/reach/{what}", ID: "reachTask", Summary: "Reach into a task of this node: exec, console or connect", Verb: VerbNode, NoState: true, Duplex: true, Stream: MediaFrames, Handler: reachTask},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/services/{name}", ID: "callService", Summary: "Connect a task of the caller's own to a service in its job's list", Verb: VerbNode, Duplex: true, Stream: MediaFrames, Handler: callService},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/serve", ID: "serveTask", Summary: "Connect to a port that a service's task of this node declares, for a task of its tenant", Verb: VerbNode, NoState: true, Duplex: true, Stream: MediaFrames, Handler: serveTask},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/move", ID: "moveTask", Summary: "One stream of a running task that is moved to this node, from the node that runs it", Verb: VerbNode, NoState: true, Duplex: true, Stream: mediaMove, Query: []parameter{{"stream", "string", "its name; without one: does the task wait"}}, Handler: moveTask},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/hold/{what}", ID: "holdTask", Summary: "Pause or resume a task of this node", Verb: VerbNode, NoState: true, Out: HoldAnswer{}, Handler: holdTask},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/snapshot", ID: "taskSnapshot", Summary: "A snapshot of a task of this node", Verb: VerbNode, NoState: true, Stream: MediaSnapshot, Handler: taskSnapshot},
		{Method: http.MethodPost, Path: MeshPrefix + "/tasks/{job}/{rest}/disks/{what}", ID: "taskDisks", Summary: "The snapshots of the disks of a task of this node: list, take, remove or restore", Verb: VerbNode, NoState: true, In: DisksRequest{}, Out: DiskSnapshots{}, Handler: taskDisks},
		{Method: http.MethodGet, Path: MeshPrefix + "/tasks/{job}/{rest}/isolation", ID: "taskIsolation", Summary: "What holds a task of this node in", Verb: VerbNode, NoState: true, Out: Isolation{}, Handler: taskIsolation},
		{Method: http.MethodGet, Path: MeshPrefix + "/tasks/{job}/{rest}/drift", ID: "taskDrift", Summary: "How a task of this node differs from what was declared", Verb: VerbNode, NoState: true, Out: DriftReport{}, Handler: taskDrift},
		{Method: http.MethodGet, Path: MeshPrefix + "/gpus", ID: "nodeSamples", Summary: "What the devices of this node do now", Verb: VerbNode, NoState: true, Out: NodeSamples{}, Handler: nodeSamples},
		{Method: http.MethodGet, Path: MeshPrefix + "/ledger/tile/{path...}", ID: "replicaTile", Summary: "A tile or bundle of the ledger, for another replica", Verb: VerbNode, Stream: "application/octet-stream", Handler: replicaTile},
		{Method: http.MethodGet, Path: MeshPrefix + "/ledger/checkpoints", ID: "replicaCheckpoints", Summary: "Signed checkpoints that are kept, for another replica", Verb: VerbNode, Stream: "application/octet-stream", Query: []parameter{{"after", "integer", "of more than so many leaves"}}, Handler: replicaCheckpoints},
		{Method: http.MethodGet, Path: MeshPrefix + "/ledger/openings", ID: "replicaOpenings", Summary: "What leaves' commitments hide, for another replica", Verb: VerbNode, Stream: "application/octet-stream", Query: []parameter{{"first", "integer", "index of the first leaf"}, {"count", "integer", "of leaves, within one bundle"}}, Handler: replicaOpenings},
		{Method: http.MethodGet, Path: MeshPrefix + "/receipts", ID: "nodeSegments", Summary: "Inference receipts that a node keeps, for a replica's evidence pack", Verb: VerbNode, NoState: true, Stream: "application/octet-stream", Query: []parameter{{"first", "integer", "number of the first segment"}, {"count", "integer", "of segments"}, {"owner", "string", "the leaves of this tenant's requests alone"}, {"model", "string", "the leaves of requests for this model alone; may be given again"}}, Handler: nodeSegments},
		{Method: http.MethodGet, Path: MeshPrefix + "/chain", ID: "ownChain", Summary: "Where the caller's own chain of receipts ends", Verb: VerbNode, Out: ChainEnd{}, Handler: ownChain},
		{Method: http.MethodGet, Path: MeshPrefix + "/chain/proof", ID: "chainProof", Summary: "The proof of a segment of the caller's own chain, as receipts carry it", Verb: VerbNode, Stream: "text/plain", Query: []parameter{{"leaf", "integer", "index of the segment's leaf"}}, Handler: chainProof},
		{Method: http.MethodGet, Path: MeshPrefix + "/chain/keeper", ID: "chainKeeper", Summary: "Which node keeps the receipts of a chain", Verb: VerbNode, Out: ChainKeeper{}, Query: []parameter{{"chain", "string", "as leaves name it"}}, Handler: chainKeeper},
		{Method: http.MethodGet, Path: MeshPrefix + "/summary", ID: "summary", Summary: "The region's signed summary", Verb: VerbPeer, Foreign: true, Stream: "application/vnd.sovmesh.statement", Handler: summary},
		{Method: http.MethodPost, Path: MeshPrefix + "/reservations", ID: "reserve", Summary: "Hold room for a job of the caller's region", Verb: VerbPeer, Foreign: true, In: ReserveRequest{}, Out: ReserveAnswer{}, Handler: reserve},
		{Method: http.MethodDelete, Path: MeshPrefix + "/reservations/{key}", ID: "release", Summary: "Give room back", Verb: VerbPeer, Foreign: true, Handler: release},
		{Method: http.MethodPost, Path: MeshPrefix + "/jobs", ID: "forward", Summary: "Take a forwarded job; its header is judged before its body is read", Verb: VerbPeer, Foreign: true, Unread: true, In: ForwardedJob{}, Out: ForeignStatus{}, Handler: takeForwarded},
		{Method: http.MethodGet, Path: MeshPrefix + "/jobs", ID: "foreignJobs", Summary: "Jobs that the caller's region forwarded and that changed since an index", Verb: VerbPeer, Foreign: true, Out: JobChanges{}, Query: paging(), Handler: foreignJobs},
		{Method: http.MethodGet, Path: MeshPrefix + "/jobs/{id}", ID: "foreignJob", Summary: "Status of a job that the caller's region forwarded or granted", Verb: VerbPeer, Foreign: true, Out: ForeignStatus{}, Handler: foreignJob},
		{Method: http.MethodDelete, Path: MeshPrefix + "/jobs/{id}", ID: "stopForeign", Summary: "Stop it", Verb: VerbPeer, Foreign: true, Out: ForeignStatus{}, Handler: stopForeign},
		{Method: http.MethodGet, Path: MeshPrefix + "/jobs/{id}/logs", ID: "foreignLogs", Summary: "Its output", Verb: VerbPeer, Foreign: true, Stream: "text/plain", Handler: jobLogs},
		{Method: http.MethodGet, Path: MeshPrefix + "/jobs/{id}/outputs", ID: "foreignOutputs", Summary: "The files that it left", Verb: VerbPeer, Foreign: true, Out: JobOutputs{}, Handler: jobOutputs},
		{Method: http.MethodGet, Path: MeshPrefix + "/jobs/{id}/outputs/{digest}", ID: "foreignOutput", Summary: "One of them", Verb: VerbPeer, Foreign: true, Stream: mediaOutput, Handler: jobOutput},
		{Method: http.MethodPost, Path: MeshPrefix + "/jobs/{id}/reach/{what}", ID: "reachForeign", Summary: "Reach into the task of a job that the caller's region forwarded", Verb: VerbPeer, Foreign: true, Duplex: true, Stream: MediaFrames, Handler: reachForeign},
		{Method: http.MethodPost, Path: MeshPrefix + "/services/{name}", ID: "foreignService", Summary: "Connect a job that the caller's region runs for this one, or forwarded, to a service of its tenant", Verb: VerbPeer, Foreign: true, Duplex: true, Stream: MediaFrames, Handler: foreignService},
	}
}
