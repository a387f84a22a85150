package main

// Opening the user's browser, without a shell, at an address of our own.

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// browserGrace is how long a program that opens a browser may take to fail.
const browserGrace = 3 * time.Second

// openBrowser starts the first program that opens a browser on address. It does
// not wait for the browser.
func openBrowser(browsers, address string) error {
	var err error
	for _, command := range browserCommands(browsers, runtime.GOOS, address) {
		cmd := exec.Command(command[0], command[1:]...)
		// Neither stdin nor stdout: both speak JSON-RPC with the host.
		if err = cmd.Start(); err != nil {
			continue
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }() // reaps it; it may outlive this program
		select {
		case err = <-ended: // xdg-open has found no browser; rundll32's status means nothing
			if err == nil || runtime.GOOS == "windows" {
				return nil
			}
		case <-time.After(browserGrace):
			return nil
		}
	}
	return err
}

// browserCommands are those of $BROWSER, then the system's.
func browserCommands(browsers, system, address string) (commands [][]string) {
	for _, entry := range filepath.SplitList(browsers) {
		command := browserWords(entry)
		if entry == "" {
			continue
		}
		if !strings.Contains(entry, "%s") {
			command = append(command, address)
		}
		for i := range command {
			command[i] = strings.ReplaceAll(command[i], "%s", address)
		}
		commands = append(commands, command)
	}
	switch system {
	case "darwin":
		return append(commands, []string{"/usr/bin/open", address})
	case "windows":
		// Never cmd /c start: it cuts the URL at & and runs what follows.
		return append(commands, []string{"rundll32", "url.dll,FileProtocolHandler", address})
	}
	return append(commands, []string{"wslview", address}, []string{"xdg-open", address})
}

// browserWords splits an entry of $BROWSER at its blanks, unless these belong to
// the name of a program.
func browserWords(entry string) []string {
	words := strings.Fields(entry)
	if _, err := exec.LookPath(entry); err == nil || len(words) == 0 {
		return []string{entry}
	}
	return words
}
