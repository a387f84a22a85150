package main

// Opening the user's browser, without a shell, at an address of our own.

import (
	"os/exec"
	"runtime"
)

// openBrowser starts a browser on address. It does not wait for it.
func openBrowser(browser, address string) error {
	var err error
	for _, command := range browserCommands(browser, runtime.GOOS) {
		cmd := exec.Command(command[0], append(command[1:], address)...)
		// Neither stdin nor stdout: both speak JSON-RPC with the host.
		if err = cmd.Start(); err == nil {
			go cmd.Wait() // reaps it; it may outlive this program
			return nil
		}
	}
	return err
}

// browserCommands are tried in their order until one starts.
func browserCommands(browser, system string) [][]string {
	if browser != "" {
		return [][]string{{browser}}
	}
	switch system {
	case "darwin":
		return [][]string{{"/usr/bin/open"}}
	case "windows":
		// Never cmd /c start: it cuts the URL at & and runs what follows.
		return [][]string{{"rundll32", "url.dll,FileProtocolHandler"}}
	}
	return [][]string{{"wslview"}, {"xdg-open"}}
}
