package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/inference/canary"
	"github.com/urfave/cli/v2"
)

func (p *program) canaryCommand() *cli.Command {
	return &cli.Command{
		Name: "canary", Usage: "a small deterministic OpenAI-compatible responder, for probing",
		Description: "It is no model: it answers from rules, the same request always with the same\nwords, and says so. Register it as an inference job to probe the way from a\nclient to a model server, end to end.",
		UsageText:   "sovmesh canary --listen 127.0.0.1:8000",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:8000", Usage: "`ADDR` (host:port) to serve on; port 0 takes a free one; default 127.0.0.1:8000"},
			&cli.StringSliceFlag{Name: "model", Usage: "`NAME` it answers to; may be repeated; default canary"},
			&cli.DurationFlag{Name: "token-every", Usage: "pause before each token, as in 20ms"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			cfg := canary.DefaultConfig()
			if models := c.StringSlice("model"); len(models) > 0 {
				cfg.Models = models
			}
			cfg.TokenEvery = c.Duration("token-every")
			return p.serveCanary(c.Context, c.String("listen"), cfg)
		},
	}
}

// serveCanary serves until ctx ends, then lets answers in flight finish.
func (p *program) serveCanary(ctx context.Context, addr string, cfg canary.Config) error {
	if !listenable(addr) {
		return usage("write host:port, as in 127.0.0.1:8000", "%s is no address to listen on", quoteWord(addr))
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return listenFault(addr, err)
	}
	base := "http://" + l.Addr().String()
	err = p.show(struct {
		Listen string `json:"listen"`
		URL    string `json:"url"`
	}{l.Addr().String(), base}, func(w io.Writer) { fmt.Fprintf(w, "canary (no model) serves %s/v1\n", base) })
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{Handler: canary.New(cfg), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("canary on %s: %w", addr, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close() // answers that would not end are cut
	}
	<-served
	return nil
}
