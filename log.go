package main

// What people read on stderr: one line an event, `mcp-proxy: …`, and a line
// `hint: …` with what to type where there is a remedy. It knows nothing about
// the protocol. Nothing that a server sent is printed except an excerpt.

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

type logLevel int

const (
	levelError logLevel = iota
	levelWarn
	levelInfo
	levelDebug
)

func parseLogLevel(name string) (logLevel, bool) {
	for i, known := range []string{"error", "warn", "info", "debug"} {
		if name == known {
			return logLevel(i), true
		}
	}
	return 0, false
}

// logger writes whole lines; a nil logger is silent.
type logger struct {
	level logLevel

	mu sync.Mutex // guards writing to w
	w  io.Writer
}

func (l *logger) warnf(format string, args ...any)  { l.printf(levelWarn, format, args...) }
func (l *logger) infof(format string, args ...any)  { l.printf(levelInfo, format, args...) }
func (l *logger) debugf(format string, args ...any) { l.printf(levelDebug, format, args...) }

func (l *logger) enabled(level logLevel) bool { return l != nil && level <= l.level }

func (l *logger) printf(level logLevel, format string, args ...any) {
	if !l.enabled(level) {
		return
	}
	l.notice("mcp-proxy: " + fmt.Sprintf(format, args...))
}

// notice prints a line whatever the level: the user is waiting for it.
func (l *logger) notice(line string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, line+"\n")
}

// report prints an error and its hint.
func (l *logger) report(err error) {
	text := "mcp-proxy: " + err.Error()
	if hint := hintOf(err); hint != "" {
		text += "\nhint: " + hint
	}
	l.notice(text)
}

// hinted is an error whose remedy is known.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// withHint adds what to type to an error.
func withHint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

func hintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

const maxExcerpt = 200 // bytes

// excerpt is a short, printable piece of a documented error field that a
// server sent: control characters could forge lines or drive a terminal.
func excerpt(s string) string {
	cleaned := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	cleaned = strings.TrimSpace(cleaned)
	if len(cleaned) <= maxExcerpt {
		return cleaned
	}
	cut := maxExcerpt
	for !utf8.RuneStart(cleaned[cut]) {
		cut--
	}
	return cleaned[:cut] + "…"
}
