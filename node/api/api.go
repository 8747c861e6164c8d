// Package api is the protocol with meaning: what a region's operators and
// applications ask of a node over HTTPS, and what nodes and regions ask of each
// other over HTTP/3 with mutual TLS. Server, client and wire types live here
// together, so that one change changes both ends.
//
// The rule that must hold: the residency of a body is judged from its header
// before the body is read, and a body that may not be here is never read,
// parsed, logged or kept. Who asks is decided once, by the certificate on the
// connection or the token in the header; a foreign certificate reaches only
// operations marked for it, and never one of an administrator. One table of
// operations gives routes, authorization and the OpenAPI document.
//
// The command line, the dashboard, the scenarios and the other regions are all
// clients of this package; node wires its server to consensus, transport and
// the runner through the small interfaces in server.go.
package api
