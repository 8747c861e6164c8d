package evidence

// readme stands in every pack. Its recipe needs nothing of this project; a test
// runs it.
const readme = `EVIDENCE PACK

This file shows what a region of a mesh recorded of a time: every decision where
something may run, every act of its administrators, and what it refused. It holds
all leaves of the region's ledger of that time, so that a missing one shows, and
no name, command or prompt, except what was exported with --job, --tenant or --acts.

  pack.json            what this pack claims to hold; nothing in it is believed
  law/                 the law packs that decisions pin, by their hash
  regions/R/bundles    the certificates by which the region and its peers are known
  regions/R/certificates  the chain of the node that exported; leaves show all issues
  regions/R/refused    forged certificates that this node was shown and refused
  regions/R/checkpoints   signed states of the log, with witnesses' cosignatures:
  https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature
  regions/R/edge       what the log's tree was before the first leaf here
  regions/R/entries    the leaves, each behind its length in two bytes
  regions/R/tail       consistency proof to a later checkpoint, if there is one
  regions/R/successor  where a recovery ended this log: the first leaf of the next one, with its proof
  regions/R/openings   what leaves' commitments hide, as far as it was asked for
  regions/R/segments   receipts of inference requests, as their nodes keep them; of
  those that were not asked for a hash. They name no person and no prompt

VERIFY IT

  sovmesh-verify --policy POLICY PACK.tar

POLICY is yours: get it from the operator and compare it by another way. It is
the only thing that you need to trust, with a verifier that you built.

VERIFY IT WITHOUT OUR PROGRAMS

What follows checks every file against MANIFEST, builds the Merkle tree
(RFC 6962) over the leaves, compares it with the signed checkpoint, and checks
the log's signature with the key in your policy. In the unpacked folder, with R
the region's name and POLICY your policy file:

    sha256sum --quiet --strict -c MANIFEST || exit 1
    cat > check.py <<'END'
    import sys, struct, hashlib, glob
    from base64 import b64decode, b64encode
    H = lambda b: hashlib.sha256(b).digest()
    d = 'regions/' + sys.argv[1] + '/'
    e = open(d + 'edge', 'rb').read()
    n = int.from_bytes(e[:8], 'big')
    sizes = [1 << b for b in range(63, -1, -1) if n >> b & 1]
    tree = [(s, e[8+32*i:40+32*i]) for i, s in enumerate(sizes)]
    for f in sorted(glob.glob(d + 'entries/*')):
        data = open(f, 'rb').read()
        while data:
            k = struct.unpack('>H', data[:2])[0]
            x, data, n = (1, H(b'\0' + data[2:2+k])), data[2+k:], n + 1
            while tree and tree[-1][0] == x[0]: x = (2*x[0], H(b'\1' + tree.pop()[1] + x[1]))
            tree.append(x)
    root = tree.pop()[1]
    while tree: root = H(b'\1' + tree.pop()[1] + root)
    text, lines = open(d + 'checkpoints/%020d' % n, encoding='utf-8').read().split('\n\n')
    origin, size, told = text.split('\n')
    if int(size) != n or told != b64encode(root).decode(): sys.exit('NOT the log that was signed')
    key = [l.split()[1].split('+', 2)[2] for l in open(sys.argv[2]) if l.startswith('log ' + origin + '+')][0]
    sig = [l.split(' ')[2] for l in lines.split('\n') if l.startswith('\u2014 ' + origin + ' ')][0]
    open('key.der', 'wb').write(bytes.fromhex('302a300506032b6570032100') + b64decode(key)[1:])
    open('signed', 'w', encoding='utf-8').write(text + '\n'); open('signature', 'wb').write(b64decode(sig)[4:])
    END
    python3 check.py "$R" "$POLICY" || exit 1
    openssl pkeyutl -verify -pubin -keyform DER -inkey key.der -rawin -in signed -sigfile signature

A pack with a tail ends before its last checkpoint: export without --to for the
recipe. Witnesses' cosignatures, times, chains of receipts, and the law of every
decision are checked by the verifier only.

WHAT IT DOES NOT SHOW

- that the facts of a region are true: country, operator and claims are what its
  operators declared, at the assurance that each leaf names
- receipts that pack.json lists as absent: their node was away, has left, or keeps
  them no longer. Made again when the node is back, the pack may have them
- with --tenant or --job, that all receipts of it are here: the region chose them
- that nothing ran outside the ledger: a node could run what nobody committed;
  receipts held by clients, and visits, show that
- what went on inside a job, and what its operator could see
- that regions and all the witnesses of the policy did not act together
- a time more exact than the witnesses' cosignatures around it
- what was erased: its leaf is here and proven, and the verifier counts it; what
  it hid is off the region's files, and whether old blocks of its disks, backups
  or another region still have it, no file can show
- what is in the records of other regions: each exports its own pack; verify
  them together, and what they say of each other is compared
`
