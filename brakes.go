package main

// What keeps a broken server from driving the program, or the user's desktop,
// in circles: how often browser windows are opened, and what is no longer tried
// with a server that refuses all it is brought. It knows nothing of how these
// things are done.

import "time"

const (
	windowInterval = time.Minute // between two browser windows for the same purpose
	maxWindows     = 3           // per windowInterval, whatever they are for
)

// recent are the windows of the last minute; one from the future is of a clock
// that jumped, and does not count.
func recent(windows []window, now time.Time) []window {
	var kept []window
	for _, w := range windows {
		if age := now.Sub(w.Opened); age >= 0 && age < windowInterval {
			kept = append(kept, w)
		}
	}
	return kept
}

// brake is how long the next window has to wait.
func brake(windows []window, purpose string, now time.Time) time.Duration {
	windows = recent(windows, now)
	var wait time.Duration
	for i, w := range windows {
		if w.Purpose == purpose || len(windows)-i >= maxWindows {
			wait = windowInterval - now.Sub(w.Opened)
		}
	}
	return wait
}
