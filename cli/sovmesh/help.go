package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-runewidth"
	"github.com/urfave/cli/v2"
)

// printHelp writes the help of the program or of one command: what it does, how
// it is written, its flags, an example. A command keeps its examples in
// UsageText, one a line.
func printHelp(w io.Writer, app *cli.App, path []*cli.Command) {
	if len(path) == 0 {
		helpRoot(w, app)
		return
	}
	c := path[len(path)-1]
	name := pathOf(path)
	fmt.Fprintf(w, "%s - %s\n\n", name, c.Usage)
	if len(c.Subcommands) > 0 {
		fmt.Fprintf(w, "usage:\n  %s COMMAND\n\ncommands:\n", name)
		listCommands(w, "", c.Subcommands)
		fmt.Fprintf(w, "\nexample:\n  %s --help\n", pathOf(append(path, c.Subcommands[0])))
		return
	}
	fmt.Fprintf(w, "usage:\n  %s [FLAGS]\n", strings.TrimSpace(name+" "+c.ArgsUsage))
	if c.Description != "" {
		fmt.Fprintf(w, "\n%s\n", c.Description)
	}
	helpFlags(w, c)
	fmt.Fprintln(w, "\nexample:")
	for _, l := range strings.Split(c.UsageText, "\n") {
		fmt.Fprintf(w, "  %s\n", l)
	}
}

func helpRoot(w io.Writer, app *cli.App) {
	fmt.Fprintf(w, "sovmesh - %s\n\n%s\n\nusage:\n  sovmesh COMMAND [ARGUMENTS] [FLAGS]\n\ncommands:\n", app.Usage, app.Description)
	listCommands(w, "", app.Commands)
	fmt.Fprintln(w, "\nwhich region to talk to (flag, or environment, or a context):")
	writeFlags(w, connectionFlags())
	fmt.Fprint(w, `
exit codes:
  0 done · 1 failed · 2 misuse or bad input, nothing was changed
  10 lawful, no capacity now · 11 lawful, no hardware here could ever hold it
  20 not lawful · 30 unknown: a region needed for the answer is out of reach
  40 not permitted to you

example:
`)
	for _, l := range strings.Split(app.UsageText, "\n") {
		fmt.Fprintf(w, "  %s\n", l)
	}
	fmt.Fprintln(w, "\nevery command has --help; --json prints one document for programs")
}

func listCommands(w io.Writer, prefix string, commands []*cli.Command) {
	width := 0
	for _, c := range commands {
		width = max(width, len(c.Name))
	}
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		fmt.Fprintf(w, "  %s%-*s  %s\n", prefix, width, c.Name, c.Usage)
	}
}

// helpFlags lists a command's own flags; those of the connection are the same
// everywhere and stay on one line.
func helpFlags(w io.Writer, c *cli.Command) {
	var own []cli.Flag
	connects := false
	for _, f := range c.Flags {
		if findFlag(connectionFlags(), f.Names()[0]) != nil {
			connects = true
			continue
		}
		own = append(own, f)
	}
	fmt.Fprintln(w, "\nflags:")
	writeFlags(w, own)
	if connects {
		fmt.Fprintln(w, "  --addr, --token, --ca, --context: which region to talk to, see sovmesh --help")
	}
}

// writeFlags aligns flags and what they mean.
func writeFlags(w io.Writer, flags []cli.Flag) {
	var left, right []string
	width := 0
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if v, hides := f.(cli.VisibleFlag); !ok || hides && !v.IsVisible() {
			continue
		}
		value, text := placeholder(d.GetUsage())
		name := "--" + f.Names()[0]
		if d.TakesValue() {
			name += " " + value
		}
		left, right = append(left, name), append(right, text)
		width = max(width, runewidth.StringWidth(name))
	}
	for i := range left {
		fmt.Fprintf(w, "  %s  %s\n", runewidth.FillRight(left[i], width), right[i])
	}
}

// placeholder finds the word in backquotes in a flag's text: it names the flag's
// value. At the beginning of the text it is said once only.
func placeholder(text string) (value, rest string) {
	before, tail, ok := strings.Cut(text, "`")
	if !ok {
		return "VALUE", text
	}
	value, after, _ := strings.Cut(tail, "`")
	if before != "" {
		return value, before + value + after
	}
	return value, strings.TrimLeft(after, ": ")
}
