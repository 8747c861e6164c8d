package state

// The kinds of commands, as they stand on the wire and in leaves.
const (
	KindInitRegion         Kind = "region.init"
	KindSetRegionPolicy    Kind = "region.policy"
	KindImportLawPack      Kind = "law.import"
	KindActivateLawPack    Kind = "law.activate"
	KindSetTenant          Kind = "tenant.set"
	KindCreateToken        Kind = "token.create"
	KindRevokeToken        Kind = "token.revoke"
	KindCreateJoinToken    Kind = "node.invite"
	KindJoinNode           Kind = "node.join"
	KindSetRole            Kind = "node.role"
	KindRemoveNode         Kind = "node.remove"
	KindIssueCertificate   Kind = "node.certificate"
	KindReportInventory    Kind = "node.inventory"
	KindSetContact         Kind = "node.contact"
	KindCordonNode         Kind = "node.cordon"
	KindResumeNode         Kind = "node.resume"
	KindDrainNode          Kind = "node.drain"
	KindClearDevice        Kind = "node.device.clear"
	KindDrainNodes         Kind = "node.drain-set"
	KindFinishDrain        Kind = "node.drained"
	KindSubmitJob          Kind = "job.submit"
	KindStopJob            Kind = "job.stop"
	KindSetForward         Kind = "job.forward"
	KindMirrorJob          Kind = "job.mirror"
	KindAssign             Kind = "task.assign"
	KindStopTasks          Kind = "task.stop"
	KindReportTasks        Kind = "task.report"
	KindRenewLeases        Kind = "task.lease"
	KindInviteRegion       Kind = "peer.invite"
	KindPutPeer            Kind = "peer.put"
	KindApprovePeer        Kind = "peer.approve"
	KindUpdatePeer         Kind = "peer.update"
	KindLeavePeer          Kind = "peer.leave"
	KindReserve            Kind = "reservation.hold"
	KindReleaseReservation Kind = "reservation.release"
	KindIssueGrant         Kind = "grant.issue"
	KindUseGrant           Kind = "grant.used"
	KindRaiseVersion       Kind = "state.raise"
	KindMarkDigest         Kind = "state.mark"
	KindCompareDigest      Kind = "state.compare"
)

// MarkDigest makes every replica digest its state as it is after this command;
// [CompareDigest] then tells all of them what the leader found.
type MarkDigest struct{}

// CompareDigest carries the leader's digest of the state at a mark, which is
// known by the size of the ledger after it. A replica that found another digest
// has diverged and stops.
type CompareDigest struct {
	Size   uint64 `json:"size"`
	Digest string `json:"digest"` // hex SHA-256, see [View.Digest]
}

// Kind names the command.
func (InitRegion) Kind() Kind         { return KindInitRegion }
func (SetRegionPolicy) Kind() Kind    { return KindSetRegionPolicy }
func (ImportLawPack) Kind() Kind      { return KindImportLawPack }
func (ActivateLawPack) Kind() Kind    { return KindActivateLawPack }
func (SetTenant) Kind() Kind          { return KindSetTenant }
func (CreateToken) Kind() Kind        { return KindCreateToken }
func (RevokeToken) Kind() Kind        { return KindRevokeToken }
func (CreateJoinToken) Kind() Kind    { return KindCreateJoinToken }
func (JoinNode) Kind() Kind           { return KindJoinNode }
func (SetRole) Kind() Kind            { return KindSetRole }
func (RemoveNode) Kind() Kind         { return KindRemoveNode }
func (IssueCertificate) Kind() Kind   { return KindIssueCertificate }
func (ReportInventory) Kind() Kind    { return KindReportInventory }
func (SetContact) Kind() Kind         { return KindSetContact }
func (CordonNode) Kind() Kind         { return KindCordonNode }
func (ResumeNode) Kind() Kind         { return KindResumeNode }
func (DrainNode) Kind() Kind          { return KindDrainNode }
func (ClearDevice) Kind() Kind        { return KindClearDevice }
func (DrainNodes) Kind() Kind         { return KindDrainNodes }
func (FinishDrain) Kind() Kind        { return KindFinishDrain }
func (SubmitJob) Kind() Kind          { return KindSubmitJob }
func (StopJob) Kind() Kind            { return KindStopJob }
func (SetForward) Kind() Kind         { return KindSetForward }
func (MirrorJob) Kind() Kind          { return KindMirrorJob }
func (Assign) Kind() Kind             { return KindAssign }
func (StopTasks) Kind() Kind          { return KindStopTasks }
func (ReportTasks) Kind() Kind        { return KindReportTasks }
func (RenewLeases) Kind() Kind        { return KindRenewLeases }
func (InviteRegion) Kind() Kind       { return KindInviteRegion }
func (PutPeer) Kind() Kind            { return KindPutPeer }
func (ApprovePeer) Kind() Kind        { return KindApprovePeer }
func (UpdatePeer) Kind() Kind         { return KindUpdatePeer }
func (LeavePeer) Kind() Kind          { return KindLeavePeer }
func (Reserve) Kind() Kind            { return KindReserve }
func (ReleaseReservation) Kind() Kind { return KindReleaseReservation }
func (IssueGrant) Kind() Kind         { return KindIssueGrant }
func (UseGrant) Kind() Kind           { return KindUseGrant }
func (RaiseVersion) Kind() Kind       { return KindRaiseVersion }
func (MarkDigest) Kind() Kind         { return KindMarkDigest }
func (CompareDigest) Kind() Kind      { return KindCompareDigest }

// readers has, for every kind, what reads its body. It is a function and not a
// variable so that nothing can change it.
func reader(k Kind) func([]byte) (Command, error) {
	switch k {
	case KindInitRegion:
		return read[InitRegion]
	case KindSetRegionPolicy:
		return read[SetRegionPolicy]
	case KindImportLawPack:
		return read[ImportLawPack]
	case KindActivateLawPack:
		return read[ActivateLawPack]
	case KindPreempt:
		return read[Preempt]
	case KindSetTenant:
		return read[SetTenant]
	case KindCreateToken:
		return read[CreateToken]
	case KindRevokeToken:
		return read[RevokeToken]
	case KindCreateJoinToken:
		return read[CreateJoinToken]
	case KindJoinNode:
		return read[JoinNode]
	case KindSetRole:
		return read[SetRole]
	case KindRemoveNode:
		return read[RemoveNode]
	case KindIssueCertificate:
		return read[IssueCertificate]
	case KindReportInventory:
		return read[ReportInventory]
	case KindSetContact:
		return read[SetContact]
	case KindCordonNode:
		return read[CordonNode]
	case KindResumeNode:
		return read[ResumeNode]
	case KindDrainNode:
		return read[DrainNode]
	case KindClearDevice:
		return read[ClearDevice]
	case KindDrainNodes:
		return read[DrainNodes]
	case KindFinishDrain:
		return read[FinishDrain]
	}
	return workReader(k)
}

// workReader is reader's second half: jobs, tasks, peers and the rest.
func workReader(k Kind) func([]byte) (Command, error) {
	switch k {
	case KindSubmitJob:
		return readSubmit
	case KindStopJob:
		return read[StopJob]
	case KindSetForward:
		return read[SetForward]
	case KindMirrorJob:
		return read[MirrorJob]
	case KindAssign:
		return read[Assign]
	case KindStopTasks:
		return read[StopTasks]
	case KindReportTasks:
		return read[ReportTasks]
	case KindRenewLeases:
		return read[RenewLeases]
	case KindInviteRegion:
		return read[InviteRegion]
	case KindPutPeer:
		return read[PutPeer]
	case KindApprovePeer:
		return read[ApprovePeer]
	case KindUpdatePeer:
		return read[UpdatePeer]
	case KindLeavePeer:
		return read[LeavePeer]
	case KindReserve:
		return read[Reserve]
	case KindReleaseReservation:
		return read[ReleaseReservation]
	case KindIssueGrant:
		return read[IssueGrant]
	case KindUseGrant:
		return read[UseGrant]
	case KindRaiseVersion:
		return read[RaiseVersion]
	case KindMarkDigest:
		return read[MarkDigest]
	case KindCompareDigest:
		return read[CompareDigest]
	}
	return logReader(k)
}
