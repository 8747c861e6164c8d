package ledger

// Shown is one thing that a leaf says in clear. What stands here can never be
// erased: roles, states, hashes, opaque ids, names of regions and legal terms;
// never a name of a person, node, host, tenant or job, and no text that a
// person typed. A name may stand more than once.
type Shown struct{ Name, Value string }

// The names of shown fields. Adding one needs no new version of the leaf:
// whoever reads leaves ignores names it does not know.
const (
	// ShownRole is what the actor was allowed to do when it asked: roles of a
	// token joined by "+", or node, region, grant.
	ShownRole = "role"
	// ShownWhere is where the actor asked from, as a salted commitment like the
	// actor: the region can open both.
	ShownWhere = "where"
	// ShownJob is "<job id> <status>[ <exit code>]": the command gave the job
	// this status.
	ShownJob = "job"
	// ShownMore counts the fields that did not fit.
	ShownMore = "more"
	// ShownRegion is a region that the command is about.
	ShownRegion = "region"
	// ShownOperator is "<home> <parent>", the countries of a region's operator.
	ShownOperator = "operator"
	// ShownBundle is the hex SHA-256 of the certificates by which a region is known.
	ShownBundle = "bundle"
	// ShownFingerprint is the fingerprint that two operators compared.
	ShownFingerprint = "fingerprint"
	// ShownPack is the hash of a law pack.
	ShownPack = "law-pack"
	// ShownExport and ShownImport are rules of the region, tags in wire form.
	ShownExport = "export"
	ShownImport = "import"
	// ShownTag is a tag in wire form that a tenant or token carries.
	ShownTag = "tag"
	// ShownGranted is the roles that a new token has, joined by "+".
	ShownGranted = "granted"
	// ShownCertificate is "<serial> <not after> <hex SHA-256 of its DER>" of a
	// certificate issued, ShownRevoked the serial of one revoked.
	ShownCertificate = "certificate"
	ShownRevoked     = "revoked"
	// ShownState is what became of the thing: the state or the role that a node was
	// given, a peer, token or witness that was let go.
	ShownState = "state"
	// ShownGrant is the id of a grant that another region's job came in by.
	ShownGrant = "grant"
	// ShownPeerLeaf is "<region> <leaf index> <hex leaf hash>": the other half
	// of a crossing, in the ledger of the region it names.
	ShownPeerLeaf = "peer-leaf"
	// ShownOrigin is the name of a log begun anew, ShownPrevious the last signed
	// checkpoint of the log before it.
	ShownOrigin   = "origin"
	ShownPrevious = "previous"
	// ShownLogKey and ShownWitnessKey are the verifier keys of a region's log and
	// of its witness, ShownWitness that of an outside witness.
	ShownLogKey     = "log-key"
	ShownWitnessKey = "witness-key"
	ShownWitness    = "witness"
	// The fields of a segment of inference receipts: the chain it belongs to, its
	// number in it, how many receipts it holds, their RFC 6962 root and that of
	// the segment before (hex), the times of the first and the last (RFC 3339),
	// how many requests have no receipt because the node could not keep up, how
	// many promised receipts are lost, and whether it was found after a crash.
	ShownChain     = "chain"
	ShownSegment   = "segment"
	ShownCount     = "count"
	ShownRoot      = "root"
	ShownPrev      = "prev"
	ShownFrom      = "from"
	ShownTo        = "to"
	ShownDropped   = "dropped"
	ShownMissing   = "missing"
	ShownRecovered = "recovered"
	// ShownErased are leaves, joined by spaces, whose openings were erased.
	ShownErased = "erased"
	// ShownRead is what an auditor read: export, entries or receipts; ShownCount how often
	// since the last leaf that says so.
	ShownRead = "read"
	// ShownNote is "<job id> <kind> <subject>[ <count>]": something was noted of a
	// task of the job. ShownDigest is the hex SHA-256 of what was taken from it.
	ShownNote   = "note"
	ShownDigest = "digest"
	// ShownVersion is a state version.
	ShownVersion = "version"
	// ShownMove is "<job id> <commit or abort> <live or near-live> <from> <to>": the
	// move of a running task ended so; from and to are commitments to its nodes.
	ShownMove = "move"
)
