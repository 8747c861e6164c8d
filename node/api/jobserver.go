package api

import (
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// workload is the kind of what is started for the job, and its image: an
// inference job's are those of its server.
func workload(s *placement.JobSpec) (placement.Kind, string) {
	if s.Kind == placement.KindInference && s.Setup != nil && s.Setup.Server != nil {
		return s.Setup.Server.Kind, s.Setup.Server.Image
	}
	return s.Kind, s.Image
}

func ports(v residency.Value) ([]placement.Port, error) {
	const help = "write ports: [8080], or ports: [{name: http, port: 8080}]"
	return rows("ports", v, maxPorts, help, func(v residency.Value) (out placement.Port, err error) {
		if v.Kind == residency.Number {
			out.Port, err = integer("port", v, 1, 65535)
			return out, err
		}
		err = fields("a port", help, v, []string{"name", "port", "host"}, func(f string, v residency.Value) (err error) {
			switch f {
			case "name":
				out.Name, err = placeName(f, v)
			case "port":
				out.Port, err = integer(f, v, 1, 65535)
			case "host":
				out.Host, err = integer(f, v, lowestHost, 65535)
			}
			return err
		})
		if err == nil && out.Port == 0 {
			err = jobError(v, help, "a port needs its number")
		}
		return out, err
	})
}

func healthCheck(v residency.Value) (*placement.Health, error) {
	const help = `write health: {command: ["/bin/check"], interval: 30s}`
	out := new(placement.Health)
	err := fields("health", help, v, []string{"command", "interval", "timeout", "start", "retries"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "command":
			out.Command, err = texts(f, v)
		case "interval":
			out.Interval, err = duration(f, v)
		case "timeout":
			out.Timeout, err = duration(f, v)
		case "start":
			out.Start, err = duration(f, v)
		case "retries":
			out.Retries, err = integer(f, v, 1, 100)
		}
		return err
	})
	if err == nil && len(out.Command) == 0 {
		err = jobError(v, help, "health needs a command")
	}
	return out, err
}

func modelServer(v residency.Value) (*placement.Server, error) {
	const help = "write server: {kind: container, image: ..., port: 8000}"
	out := new(placement.Server)
	err := fields("server", help, v, []string{"kind", "command", "env", "image", "port", "start"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "kind":
			out.Kind, err = word(f, v, placement.KindProcess, placement.KindContainer, placement.KindMicroVM, placement.KindVM, placement.KindFake)
		case "command":
			out.Command, err = texts(f, v)
		case "env":
			out.Env, err = environment(v)
		case "image":
			out.Image, err = text(f, v, 1024)
		case "port":
			out.Port, err = integer(f, v, 1, 65535)
		case "start":
			out.Start, err = duration(f, v)
		}
		return err
	})
	process := out.Kind == placement.KindProcess
	switch {
	case err != nil:
	case out.Kind == "":
		err = jobError(v, help, "server needs a kind: process, container, microvm or vm")
	case out.Port == 0:
		err = jobError(v, help, "server needs the port that it listens on")
	case process && len(out.Command) == 0:
		err = jobError(v, `add command: ["/usr/bin/server"]`, "a server of kind process needs a command")
	case process && out.Image != "":
		err = jobError(v, "write kind: container, or leave the image out", "a server of kind process takes no image")
	case !process && out.Image == "" && out.Kind != placement.KindFake:
		err = jobError(v, "add image: and what to start", "a server of kind %s needs an image", out.Kind)
	}
	return out, err
}
