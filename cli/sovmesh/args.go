package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// line is a command line, understood.
type line struct {
	path []*cli.Command // the command and those above it, outermost first
	argv []string       // for the cli library: path, flags, "--", arguments
	help bool
	json bool
}

// arrange puts flags before arguments, as the cli library wants them, while
// people write them anywhere. "--" ends flags, a lone "-" is an argument. Flags
// that every command has may stand before the command, too.
func arrange(app *cli.App, args []string) (line, error) {
	a := arranger{app: app, line: line{json: wantsJSON(args)}}
	for len(args) > 0 && a.err == nil {
		args = a.next(args)
	}
	l := a.line
	if a.err != nil && !a.unknown {
		l.help = l.help || slices.Contains(args, "--help") // of what was understood so far
	}
	if a.unknown {
		l.help = false // there is nothing to explain; the command may be one of a newer program
	}
	if a.err != nil && !l.help {
		return l, a.err
	}
	leaf := a.leaf()
	switch {
	case l.help:
		return l, nil
	case leaf == nil && len(l.path) == 0 && len(a.flags) == 0:
		l.help = true
		return l, nil
	case leaf == nil && len(l.path) == 0:
		return l, usage("name a command; see: sovmesh --help", "there are flags, but no command")
	case leaf == nil:
		return l, usage("write one of: "+strings.Join(names(a.below()), ", "), "%s needs a command after it", pathOf(l.path))
	}
	l.argv = append(l.argv, app.Name)
	for _, c := range l.path {
		l.argv = append(l.argv, c.Name)
	}
	for _, f := range a.flags {
		// Which region to talk to may be said to every command: one that talks to
		// none has no use for it.
		name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if findFlag(leaf.Flags, name) != nil {
			l.argv = append(l.argv, f)
		}
	}
	l.argv = append(append(l.argv, "--"), a.args...)
	return l, nil
}

// wantsJSON looks for --json by itself, so that a line that cannot be
// understood is answered in JSON as well.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.ContainsFunc(args, func(s string) bool {
		return s == "--json" || s == "-json" || s == "--json=true" || s == "-json=true"
	})
}

type arranger struct {
	line
	app         *cli.App
	flags, args []string
	err         error
	unknown     bool // err is of a word that is no command
}

func (a *arranger) below() []*cli.Command {
	if len(a.path) == 0 {
		return a.app.Commands
	}
	return a.path[len(a.path)-1].Subcommands
}

// leaf is the command that will run, nil while only groups were named.
func (a *arranger) leaf() *cli.Command {
	if len(a.path) == 0 || len(a.below()) > 0 {
		return nil
	}
	return a.path[len(a.path)-1]
}

// next takes one word, or a flag with its value, and returns the rest.
func (a *arranger) next(args []string) []string {
	word, rest := args[0], args[1:]
	switch {
	case word == "--":
		if a.leaf() == nil && len(rest) > 0 {
			a.err = usage("write the command before --", "-- stands before the command")
			return nil
		}
		a.args = append(a.args, rest...)
		return nil
	case len(word) > 1 && word[0] == '-':
		return a.flag(word, rest)
	case a.leaf() != nil:
		a.args = append(a.args, word)
	case len(a.path) == 0 && word == "help":
		a.help = true
	default:
		a.command(word)
	}
	return rest
}

func (a *arranger) command(word string) {
	for _, c := range a.below() {
		if c.Name == word {
			a.path = append(a.path, c)
			return
		}
	}
	under := "sovmesh"
	if len(a.path) > 0 {
		under = pathOf(a.path)
	}
	hint := "see: " + under + " --help"
	if near := nearest(word, names(a.below())); near != "" {
		hint = "did you mean " + near + "? " + hint
	}
	a.unknown = true
	a.err = usage(hint, "%s has no command %s", under, quoteWord(word))
}

func (a *arranger) flag(word string, rest []string) []string {
	name, value, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
	switch name {
	case "help", "h":
		a.help = true
		return rest
	case "version", "v":
		if len(a.path) == 0 {
			a.command("version")
			return rest
		}
	}
	known := a.known()
	f := findFlag(append(connectionFlags(), known...), name)
	if f == nil {
		a.err = a.unknownFlag(word, name, known)
		return rest
	}
	if d, ok := f.(cli.DocGenerationFlag); ok && !d.TakesValue() {
		if given {
			name += "=" + value
		}
		a.flags = append(a.flags, "--"+name)
		return rest
	}
	if !given {
		if len(rest) == 0 || rest[0] == "--" {
			a.err = usage("write --"+name+" VALUE", "--%s needs a value", name)
			return rest
		}
		value, rest = rest[0], rest[1:]
	}
	a.flags = append(a.flags, "--"+name+"="+value)
	return rest
}

// known are the flags that may stand here: those of the command, or while none
// was named those that commands share.
func (a *arranger) known() []cli.Flag {
	if leaf := a.leaf(); leaf != nil {
		return leaf.Flags
	}
	return append(connectionFlags(), jsonFlag())
}

func (a *arranger) unknownFlag(word, name string, known []cli.Flag) error {
	if a.leaf() == nil {
		return usage("write flags after the command; see: sovmesh --help", "flag %s stands before the command it belongs to", quoteWord(word))
	}
	var valid []string
	for _, f := range known {
		valid = append(valid, f.Names()[0])
	}
	hint := "see: " + pathOf(a.path) + " --help; after -- everything is an argument"
	if near := nearest(name, valid); near != "" {
		hint = "did you mean --" + near + "?"
	}
	return usage(hint, "%s has no flag %s", pathOf(a.path), quoteWord(word))
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func names(commands []*cli.Command) []string {
	var out []string
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return out
}

func pathOf(path []*cli.Command) string {
	words := []string{"sovmesh"}
	for _, c := range path {
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

// flagFault turns the flag reader's words into ours.
func flagFault(_ *cli.Context, err error, _ bool) error {
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "invalid value "); ok {
		if value, tail, ok := strings.Cut(rest, " for flag -"); ok {
			name, _, _ := strings.Cut(tail, ":")
			return usage("see the command's --help for what it takes; times are written 30s, 5m or 24h", "--%s cannot be %s", name, value)
		}
	}
	return usage("see the command's --help", "%s", text)
}

// arguments wants exactly as many arguments as there are names, and says which
// is missing. A repeated tag word is the usual cause of one too many.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	args := c.Args().Slice()
	switch {
	case len(args) < len(names):
		return nil, usage(helpHint(c), "%s is missing", names[len(args)])
	case len(args) > len(names):
		return nil, usage("quote what belongs together, as in 'EEA,!HU'; "+helpHint(c), "there is an argument too many: %s", quoteWord(args[len(names)]))
	}
	for i, a := range args {
		if a == "" && names[i] != "TAG" {
			return nil, usage(helpHint(c), "%s is empty", names[i])
		}
	}
	return args, nil
}

func helpHint(c *cli.Context) string { return "see: " + c.Command.HelpName + " --help" }
