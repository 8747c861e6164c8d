package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

func (p *program) regionInit() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "found a region: its CA, its first node, its administrator", ArgsUsage: "NAME",
		Description: `It writes, and starts nothing: a data directory, beside it an agent config, the CA
file for clients and the administrator's token (for you alone), and a context of
the region's name. What is not said about the operator is unknown, and unknown
satisfies nothing; --operator-parent none means it is its own ultimate parent.`,
		UsageText: `sovmesh region init fra-1 --country FR --operator "Acme SAS" --operator-home FR --operator-parent none
sovmesh region init ber-1 --country DE --listen 0.0.0.0:7443 --advertise 192.0.2.10:7443`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "country", Usage: "`CODE` (ISO 3166-1) of where the machines stand; required"},
			&cli.StringFlag{Name: "subdivision", Usage: "`CODE` (ISO 3166-2), as in DE-HE"},
			&cli.StringFlag{Name: "operator", Usage: "`NAME` of the legal entity that runs it"},
			&cli.StringFlag{Name: "operator-home", Usage: "`CODE` of the entity's country"},
			&cli.StringFlag{Name: "operator-parent", Usage: "`CODE` of the ultimate parent's country, or none"},
			&cli.StringSliceFlag{Name: "claim", Usage: "`K=V`: a claim about the region, as in dpf=active; may be repeated"},
			&cli.StringSliceFlag{Name: "assurance", Usage: "`K=LEVEL`: how well location or operator is known, as in location=documented; may be repeated"},
			&cli.StringFlag{Name: "mesh", Value: defaultMesh, Usage: "`DOMAIN` that the regions of the mesh share; default " + defaultMesh},
			&cli.StringFlag{Name: "node", Usage: "`NODE`: the first node's name; default NAME-n1"},
			&cli.StringFlag{Name: "site", Usage: "`SITE`: the place of the first node within the region"},
			&cli.StringFlag{Name: "data", Usage: "`DIR` of the node's data; default NAME/data"},
			&cli.StringFlag{Name: "listen", Value: defaultListen, Usage: "`HOST:PORT` for UDP and TCP; default " + defaultListen},
			&cli.StringFlag{Name: "advertise", Usage: "`HOST:PORT` at which others reach it; default what it listens on"},
		},
		Action: p.initRegion,
	}
}

const (
	defaultMesh   = "mesh.internal"
	defaultListen = "127.0.0.1:7443"
	initOwner     = "sovmesh region init"
)

// initDocument says what was made and what comes next.
type initDocument struct {
	Region      string `json:"region"`
	Mesh        string `json:"mesh"`
	Node        string `json:"node"`
	Data        string `json:"data"`
	Config      string `json:"config"`
	CA          string `json:"ca"`
	TokenFile   string `json:"token_file"`
	Fingerprint string `json:"fingerprint"`
	Context     string `json:"context,omitempty"`
	Next        string `json:"next"`
}

func (p *program) initRegion(c *cli.Context) error {
	args, err := arguments(c, "NAME")
	if err == nil {
		err = regionName(args[0])
	}
	if err != nil {
		return err
	}
	facts, err := p.regionFacts(c)
	if err != nil {
		return err
	}
	cfg, doc, err := p.initPlan(c, args[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(p.err, "target: region %s (%s), new, in %s   as: you, its founder\n", doc.Region, doc.Mesh, doc.Data)
	founded, err := node.Found(cfg, node.Founding{Region: placement.RegionID(args[0]), Mesh: doc.Mesh, Facts: facts, Now: p.now()})
	if err != nil {
		return foundFault(err)
	}
	doc.Fingerprint = founded.Fingerprint
	config, err := yaml.Marshal(agentFile(cfg, c.String("listen")))
	if err != nil {
		return fmt.Errorf("write %s: %w", doc.Config, err)
	}
	err = firstOf(
		writeFile(doc.Config, config, 0o600),
		writeFile(doc.CA, []byte(founded.CA), 0o644),
		writeFile(doc.TokenFile, []byte(founded.Token+"\n"), 0o600),
	)
	if err != nil {
		return err
	}
	p.nameContext(&doc, target{Addr: cfg.API, Token: founded.Token, CA: doc.CA, Owner: initOwner})
	return p.show(doc, func(w io.Writer) {
		p.facts(w, "region", doc.Region+" ("+doc.Mesh+")", "data", doc.Data, "config", doc.Config, "CA file", doc.CA,
			"admin token", doc.TokenFile, "fingerprint", doc.Fingerprint, "context", doc.Context)
		fmt.Fprintf(w, "\nnext: %s\n", doc.Next)
	})
}

// agentFile is the config of the first node, in the order in which people read.
func agentFile(cfg node.Config, listen string) yaml.MapSlice {
	out := yaml.MapSlice{{Key: "node", Value: string(cfg.Node)}, {Key: "data", Value: cfg.Data}, {Key: "listen", Value: listen}}
	if cfg.QUIC != listen {
		out = append(out, yaml.MapItem{Key: "advertise", Value: cfg.QUIC})
	}
	if cfg.Site != "" {
		out = append(out, yaml.MapItem{Key: "site", Value: cfg.Site})
	}
	return append(out, yaml.MapItem{Key: "gpus", Value: "auto"})
}

// nameContext adds a context of the region's name, unless somebody else has one
// of that name. Without it the files do as well: it is no reason to fail.
func (p *program) nameContext(doc *initDocument, t target) {
	p.forgetDead()
	added, err := addContexts(p.contexts, map[string]target{doc.Region: t}, nil)
	switch {
	case err != nil:
		p.warn("no context was written: " + err.Error())
	case len(added) == 0:
		p.warn("the context " + doc.Region + " is somebody else's and was left alone; use --addr, --token and --ca")
	default:
		doc.Context = doc.Region
	}
}

// initPlan says what will be written; nothing that is there is written over.
func (p *program) initPlan(c *cli.Context, region string) (node.Config, initDocument, error) {
	cfg := node.DefaultConfig()
	cfg.Program, cfg.Site = version, c.String("site")
	cfg.Node = placement.NodeID(nonEmpty(c.String("node"), region+"-n1"))
	data, err := filepath.Abs(nonEmpty(c.String("data"), filepath.Join(region, "data")))
	if err != nil {
		return cfg, initDocument{}, err
	}
	cfg.Data = data
	if cfg.QUIC, err = advertised(c.String("listen"), c.String("advertise")); err != nil {
		return cfg, initDocument{}, err
	}
	cfg.API = "https://" + cfg.QUIC
	beside := filepath.Dir(data)
	doc := initDocument{
		Region: region, Mesh: c.String("mesh"), Node: string(cfg.Node), Data: data,
		Config: filepath.Join(beside, "agent.yaml"), CA: filepath.Join(beside, "ca.pem"), TokenFile: filepath.Join(beside, "admin.token"),
	}
	doc.Next = "sovmesh agent --config " + doc.Config
	for _, path := range []string{doc.Config, doc.CA, doc.TokenFile} {
		if _, err := os.Lstat(path); err == nil {
			return cfg, doc, &api.InputError{Code: "input.data", Message: path + " is there already", Help: "give another place with --data DIR, or remove what is left of an earlier region"}
		}
	}
	if err := os.MkdirAll(beside, 0o700); err != nil {
		return cfg, doc, inputFile(err, "give a place that you may write to with --data DIR")
	}
	return cfg, doc, nil
}

// advertised is the address that others use. What listens on every address has
// none by itself.
func advertised(listen, advertise string) (string, error) {
	if !listenable(listen) {
		return "", usage("write host:port, as in 0.0.0.0:7443", "--listen cannot be %s", quoteWord(listen))
	}
	addr := nonEmpty(advertise, listen)
	host, port, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	switch {
	case err != nil || !listenable(addr) || port == "0":
		return "", usage("write host:port, as in node1.example:7443", "%s is no address that others can reach", quoteWord(addr))
	case host == "" || ip != nil && ip.IsUnspecified():
		return "", usage("add --advertise HOST:PORT, the address at which other machines reach it", "%s listens everywhere and is no address to call", quoteWord(addr))
	}
	return addr, nil
}

// regionFacts reads what is said about the region.
func (p *program) regionFacts(c *cli.Context) (placement.RegionFacts, error) {
	upper := func(flag string) string { return strings.ToUpper(c.String(flag)) }
	f := placement.RegionFacts{
		Country: upper("country"), Subdivision: upper("subdivision"),
		Operator: placement.Operator{Name: c.String("operator"), Home: upper("operator-home"), Parent: upper("operator-parent")},
	}
	if f.Operator.Parent == "NONE" {
		f.Operator.Parent = "none"
	}
	if f.Country == "" {
		return f, usage("add --country CODE, as in --country DE", "the region's country is missing")
	}
	pack := residency.Embedded()
	for _, code := range []struct{ flag, value string }{{"country", f.Country}, {"operator-home", f.Operator.Home}, {"operator-parent", f.Operator.Parent}} {
		if code.value != "" && code.value != "none" && pack.CountryName(code.value) == "" {
			return f, usage("write the ISO 3166-1 code"+prefixed(", as in ", residency.Suggest(code.value, pack)), "--%s cannot be %s: no country has that code", code.flag, quoteWord(code.value))
		}
	}
	if f.Subdivision != "" && !strings.HasPrefix(f.Subdivision, f.Country+"-") {
		return f, usage("write a part of "+f.Country+", as in "+f.Country+"-...", "--subdivision cannot be %s: it is no part of %s", quoteWord(f.Subdivision), f.Country)
	}
	var err error
	if f.Claims, err = pairs(c.StringSlice("claim"), "claim"); err != nil {
		return f, err
	}
	f.Assurance, err = p.assurance(c.StringSlice("assurance"))
	return f, err
}

func pairs(list []string, flag string) (map[string]string, error) {
	var out map[string]string
	for _, pair := range list {
		k, v, ok := strings.Cut(pair, "=")
		k = strings.ToLower(k)
		if _, twice := out[k]; !ok || k == "" || v == "" || twice {
			return nil, usage("write --"+flag+" name=value, each name once", "--%s cannot be %s", flag, quoteWord(pair))
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out, nil
}

// assurance reads location=LEVEL, operator=LEVEL and as_of=DATE; a level that
// is said without a day is said today.
func (p *program) assurance(list []string) (placement.Assurance, error) {
	var a placement.Assurance
	given, err := pairs(list, "assurance")
	for _, k := range sortedKeys(given) {
		v := given[k]
		switch {
		case k == "as_of":
			if _, err := residency.ParseDate(v); err != nil {
				return a, err
			}
			a.AsOf = v
		case k != "location" && k != "operator":
			return a, usage("write location=LEVEL, operator=LEVEL or as_of=DATE", "--assurance knows no %s", quoteWord(k))
		case !slices.Contains(residency.AssuranceLevels(), v):
			return a, usage("write one of: "+strings.Join(residency.AssuranceLevels(), ", "), "--assurance %s cannot be %s", k, quoteWord(v))
		case k == "location":
			a.Location = v
		default:
			a.Operator = v
		}
	}
	if len(given) > 0 && a.AsOf == "" {
		a.AsOf = residency.DateOf(p.now()).String()
	}
	return a, err
}

// foundFault tells a region that cannot be described from one that cannot be
// written.
func foundFault(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return inputFile(err, "give a place that you may write to with --data DIR")
	}
	return &api.InputError{Code: "input.region", Message: err.Error(), Help: "mend what it names; nothing was started. See: sovmesh region init --help"}
}
