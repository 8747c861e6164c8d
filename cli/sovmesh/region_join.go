package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/transport/identity"
	"github.com/urfave/cli/v2"
)

func (p *program) regionJoin() *cli.Command {
	return &cli.Command{
		Name: "join", Usage: "answer another region's invitation",
		Description: "FP is the inviting region's fingerprint, as its operator told you by another\nchannel; it is compared with the one in the code before anything is sent.",
		UsageText:   "sovmesh region join --code sminvite-1... --confirm-fingerprint 7K2M-...",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "code", Usage: "`CODE` that the other operator handed over"},
			&cli.StringFlag{Name: "confirm-fingerprint", Usage: "`FP` of the inviting region"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			invite, err := readInvite(c.String("code"))
			if err != nil {
				return err
			}
			fp, err := fingerprintFlag(c, "region "+string(invite.Region))
			if err != nil {
				return err
			}
			if !identity.FingerprintEqual(fp, invite.Fingerprint) {
				return &api.InputError{Code: "input.fingerprint", Message: fmt.Sprintf("the code carries another fingerprint of region %s than the one you confirmed", invite.Region), Help: "do not go on: ask its operator which is right; if the code was changed on its way, let them make a new one"}
			}
			if invite.Expired(p.now()) {
				return &api.InputError{Code: "invite.expired", Message: "the code was good until " + stamp(invite.Expires), Help: "ask for a new one: sovmesh region invite, on the other side"}
			}
			client, me, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			out, err := client.JoinRegion(c.Context, api.JoinRegionRequest{Code: invite.Encode(), Fingerprint: fp})
			if err != nil {
				return err
			}
			return p.show(out, func(w io.Writer) {
				p.facts(w, "region", string(out.Region), "state", string(out.State), "our fingerprint", out.Fingerprint)
				fmt.Fprintf(p.err, "there, by its operator: sovmesh region approve %s --confirm-fingerprint %s\n", clean(string(me.Region)), out.Fingerprint)
			})
		},
	}
}

func readInvite(code string) (identity.Invite, error) {
	if code == "" {
		return identity.Invite{}, usage("give --code CODE, as sovmesh region invite printed it on the other side", "there is no code")
	}
	invite, err := identity.ParseInvite(code)
	if err != nil {
		return invite, &api.InputError{Code: "input.code", Message: "the code cannot be read: " + err.Error(), Help: "copy all of it, without line breaks; or ask for a new one"}
	}
	return invite, nil
}
