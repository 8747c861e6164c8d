//go:build linux

package container

const agentCommand = "test-agent"

func agentMain([]string) int { return 2 }
