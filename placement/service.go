package placement

import (
	"net/netip"
	"strings"
)

// ServiceAt is one service in a workload's list: the jobs of its tenant by that
// name which are services, and the address that stands for them in the workload's
// own network. It is the service's place in the list that gives it its address, so
// it is the same on every node.
type ServiceAt struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
}

// Host is the name by which the workload finds the service.
func (s ServiceAt) Host() string { return s.Name + ".service.sovmesh" }

// MaxServices bounds the services in one list.
const MaxServices = 64

// ServicePrefix holds the addresses of services. It is for tests of network
// equipment (RFC 2544), so that nothing that a job may mean is in it.
var ServicePrefix = netip.MustParsePrefix("198.19.0.0/24")

// Services are those that the allow list names and that can be looked up, each
// once, in its order; no more than [MaxServices]. A nil network has none.
func (n *Network) Services() (out []ServiceAt) {
	if n == nil {
		return nil
	}
	seen := map[string]bool{}
	at := ServicePrefix.Addr()
	for _, entry := range n.Allow {
		r, err := ParseReach(entry)
		if err != nil || !ValidName(r.Service) || seen[r.Service] || len(out) == MaxServices {
			continue
		}
		seen[r.Service], at = true, at.Next()
		out = append(out, ServiceAt{Name: r.Service, Addr: at})
	}
	return out
}

// Allows reports whether the list names the service.
func (n *Network) Allows(service string) bool {
	for _, s := range n.Services() {
		if s.Name == service {
			return true
		}
	}
	return false
}

// HostLines are the services in the form of hosts(5), a line each; empty for none.
func (n *Network) HostLines() string {
	var text strings.Builder
	for _, s := range n.Services() {
		text.WriteString(s.Addr.String() + " " + s.Host() + "\n")
	}
	return text.String()
}

// Env names the variable by which a workload is told the address.
func (s ServiceAt) Env() string {
	return "SOVMESH_SERVICE_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Serves are the ports by which other jobs of the tenant reach this one: those that
// it declares, if it is a service.
func (s *JobSpec) Serves() (ports []int) {
	if s.Type != TypeService || s.Setup == nil {
		return nil
	}
	for _, p := range s.Setup.Ports {
		ports = append(ports, p.Port)
	}
	return ports
}
