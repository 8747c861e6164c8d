package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Each script asks the program itself for the words that may follow, so that it
// is never older than the program.
const bashCompletion = `# bash completion of sovmesh; put it into your profile: source <(sovmesh completion bash)
_sovmesh() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(sovmesh complete-words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _sovmesh sovmesh
`

const zshCompletion = `#compdef sovmesh
# zsh completion of sovmesh; put it into your profile: source <(sovmesh completion zsh)
_sovmesh() {
  local -a candidates
  candidates=("${(@f)$(sovmesh complete-words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${candidates[1]}" ]]; then
    compadd -- "${candidates[@]}"
  else
    _files
  fi
}
compdef _sovmesh sovmesh
`

const fishCompletion = `# fish completion of sovmesh; put it into your profile: sovmesh completion fish | source
function __sovmesh_words
  set -l before (commandline -opc)
  sovmesh complete-words -- $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c sovmesh -a '(__sovmesh_words)'
`

func (p *program) completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name: "completion", Usage: "print the completion script of a shell", ArgsUsage: "bash|zsh|fish",
		UsageText: "source <(sovmesh completion bash)",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "SHELL")
			if err != nil {
				return err
			}
			script, ok := scripts[args[0]]
			if !ok {
				return usage("write bash, zsh or fish", "there is no completion for %s", quoteWord(args[0]))
			}
			return p.show(struct {
				Shell  string `json:"shell"`
				Script string `json:"script"`
			}{args[0], script}, func(w io.Writer) { fmt.Fprint(w, script) })
		},
	}
}

// completeCommand answers the scripts: the words that may stand in the place of
// the last argument, one a line.
func (p *program) completeCommand() *cli.Command {
	return &cli.Command{
		Name: "complete-words", Usage: "answer a completion script", ArgsUsage: "-- WORD...", Hidden: true,
		UsageText: "sovmesh complete-words -- residency ''",
		Action: func(c *cli.Context) error {
			for _, w := range p.candidates(c.App, c.Args().Slice()) {
				fmt.Fprintln(p.out, w)
			}
			return nil
		},
	}
}

func (p *program) candidates(app *cli.App, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	a := arranger{app: app}
	for rest := words[:len(words)-1]; len(rest) > 0; {
		if rest = a.next(rest); a.err != nil {
			if len(words) > 1 && words[len(words)-2] == "--context" {
				return p.contextNames(last)
			}
			return nil
		}
	}
	var all []string
	switch {
	case strings.HasPrefix(last, "-"):
		for _, f := range append(a.known(), &cli.BoolFlag{Name: "help"}) {
			all = append(all, "--"+f.Names()[0])
		}
	case a.leaf() == nil:
		all = names(a.below())
	}
	return startingWith(all, last)
}

func (p *program) contextNames(start string) []string {
	c, err := readContexts(p.contexts)
	if err != nil {
		return nil
	}
	return startingWith(c.names(), start)
}

func startingWith(words []string, start string) []string {
	return slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, start) })
}
