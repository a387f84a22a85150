package main

// Opening the user's browser, without a shell. The URL comes from a server.

import (
	"errors"
	"net/url"
	"os/exec"
	"runtime"
)

// openBrowser starts a browser on address. It does not wait for it.
func openBrowser(browser, address string) error {
	if err := openable(address); err != nil {
		return err
	}
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

// openable refuses what a browser or a system's opener could take for a
// command, a file or a script.
func openable(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return errors.New("only https addresses are opened")
	}
	return nil
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
