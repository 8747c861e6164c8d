// Package interop holds what we say against what others read, and the other way
// round: Tessera's client and fsck and x/mod's tlog on a log of ours, our
// verifier on a log that Tessera wrote, and the witness protocol in both roles.
//
// The rule: nothing here may use our code on both ends of an exchange. It has
// tests only, and nobody relies on it; the foreign programs are no part of what
// is built.
package interop
