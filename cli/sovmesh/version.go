package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

type versionDocument struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	LawPack string `json:"law_pack"` // the one built in
}

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version", UsageText: "sovmesh version --json",
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			doc := versionDocument{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, LawPack: residency.Embedded().Hash()}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						doc.Commit = s.Value
					}
				}
			}
			return p.show(doc, func(w io.Writer) {
				fmt.Fprintf(w, "sovmesh %s\n", doc.Version)
				p.facts(w, "commit", doc.Commit, "go", doc.Go+" "+doc.OS+"/"+doc.Arch, "law pack", doc.LawPack)
			})
		},
	}
}
