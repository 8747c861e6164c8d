// Package evidence reads what a region hands to an outsider, and judges it.
//
// It trusts nobody: the only anchor is the auditor's own policy file. What
// cannot be proven is said to be so, never left out. It knows the forms of the
// ledger, the residency law and certificates, and nothing of a running mesh, so
// that the verifier can be built alone, run offline, and be read in an evening.
//
// cli/sovmesh-verify and `sovmesh audit` are its users.
package evidence
