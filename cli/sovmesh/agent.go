package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/transport/identity"
	"github.com/urfave/cli/v2"
)

func (p *program) agentCommand() *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "run one node of a region",
		Description: `FILE is YAML. Keys: node, data, listen (HOST:PORT for UDP and TCP), advertise,
hosts (further names of its certificate), site, labels {cost: 120, disk: ssd} (what
jobs are ranked by or near to), join or join_file (the token of a new node), gpus
(auto, nvml, none, sim:8xH100), cpu, memory, drivers (those of process, inference,
container, microvm, vm that it may use), images (directories below which jobs name
images and inputs), engine (the socket of Docker or Podman), registries {auth,
mirrors, plain, allow} (where images come from), microvm {vsock: true} (speak to
micro-VMs by vsock where the node has it; off unless said), tasks {share, host_network,
resolvers, moves} (what tasks are given of the node), metrics (token, open), witness
('VKEY URL' of an outside witness of the ledger), receipts {keep: 8784h, most: 64GiB}
(of answers of models: how long, and in how many bytes), log {level, format}.
Relative paths start at the file's folder. A new region's file is written by
sovmesh region init. SIGTERM ends the agent; its tasks go on and are recovered.`,
		UsageText: "sovmesh agent --config /etc/sovmesh/agent.yaml",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "config", Usage: "`FILE`; required"}},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.String("config") == "" {
				return usage("add --config FILE; sovmesh region init writes one", "the config file is missing")
			}
			cfg, err := readAgentConfig(c.String("config"))
			if err != nil {
				return err
			}
			return p.runAgent(c.Context, cfg)
		},
	}
}

// runAgent runs a node until ctx ends. What keeps it from starting is one line.
func (p *program) runAgent(ctx context.Context, cfg agentConfig) error {
	log := p.logger(cfg)
	s, err := openSockets(ctx, cfg.listen)
	if err != nil {
		return err
	}
	defer s.close()
	deps, end, err := compose(cfg.Config, s, composition{gpus: cfg.gpus, drivers: cfg.drivers, log: log, now: p.now, tasks: cfg.tasks, workloads: cfg.workloads})
	if err != nil {
		return startFault(err)
	}
	defer end()
	if err := node.Join(ctx, cfg.Config, deps); err != nil {
		if cfg.noJoinFile != nil {
			return cfg.noJoinFile
		}
		return startFault(err)
	}
	n, err := node.New(cfg.Config, deps)
	if err != nil {
		return startFault(err)
	}
	if err := sameRegion(cfg, n); err != nil {
		return err
	}
	log.Info("starting", "node", string(n.ID()), "region", string(n.Region()), "listen", s.addr(), "api", cfg.API, "version", version)
	watched := make(chan struct{})
	watch, stop := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		p.tellSupervisor(watch, n, log)
	}()
	err = n.Run(ctx)
	stop()
	<-watched
	if ctx.Err() != nil {
		log.Info("stopped; tasks go on")
		return nil
	}
	return startFault(err)
}

func (p *program) logger(cfg agentConfig) *slog.Logger {
	o := &slog.HandlerOptions{Level: cfg.level}
	if cfg.json {
		return slog.New(slog.NewJSONHandler(p.err, o))
	}
	return slog.New(slog.NewTextHandler(p.err, o))
}

// sameRegion refuses a data directory of one region with a join token of
// another: which of the two was meant is for a person to say.
func sameRegion(cfg agentConfig, n *node.Node) error {
	if cfg.Join == "" {
		return nil
	}
	token, err := identity.ParseJoinToken(cfg.Join)
	if err != nil || token.Region == n.Region() {
		return err
	}
	return &api.InputError{Code: "input.data", Message: fmt.Sprintf("%s belongs to region %s, the join token to region %s", cfg.Data, n.Region(), token.Region), Help: "give the node an empty data directory, or remove the token from its config"}
}

// startFault gives an error of the node the advice that stands in its words.
func startFault(err error) error {
	if err == nil || api.HintOf(err) != "" {
		return err
	}
	text := strings.ReplaceAll(err.Error(), "\n", ", ")
	message, advice, ok := strings.Cut(text, "; ")
	if !ok || strings.Contains(advice, "; ") {
		message, advice = text, "see the lines above it, and sovmesh agent --help"
	}
	return &api.InputError{Code: "agent.failed", Message: message, Help: advice}
}

// tellSupervisor tells a supervisor such as systemd (Type=notify) when the node
// serves and when it ends, by sd_notify(3).
func (p *program) tellSupervisor(ctx context.Context, n *node.Node, log *slog.Logger) {
	select {
	case <-ctx.Done():
		return
	case <-n.Ready():
	}
	log.Info("ready")
	if err := p.notify("READY=1"); err != nil {
		log.Warn("the supervisor was not told", "err", err)
	}
	<-ctx.Done()
	_ = p.notify("STOPPING=1") // it sees the end anyway
}

// notify sends one state to the socket that NOTIFY_SOCKET names.
func (p *program) notify(state string) error {
	path := p.getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", path) // net takes "@" for the abstract names
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
