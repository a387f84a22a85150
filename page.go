package main

// The page that the browser shows when a sign-in comes back: plain, escaped,
// no script, nothing from elsewhere. It knows what to say, not why.

import (
	"errors"
	"html"
	"io"
	"net/http"
	"strings"
)

type page struct {
	title, text string
	next        string // what to do now
	command     string // and what to type for it; may be ""
	good        bool
}

const (
	closeWindow = "You can close this window."
	orRun       = "Try again from your application, or run this in a terminal:"
)

func pageSignedIn(server string) page {
	return page{title: "Signed in", text: "mcp-proxy can now use " + server + " for you.",
		next: "You can close this window and go back to your application.", good: true}
}

var (
	pageStray = page{title: "Not a sign-in", next: closeWindow,
		text: "This address only takes the answer to a sign-in that mcp-proxy began."}
	pageWrongState = page{title: "Not this sign-in",
		text: "The answer does not belong to the sign-in that is waiting: it may be an old one.",
		next: "Close this window and use the newest sign-in page, or start again from your application."}
	pageOtherBrowser = page{title: "Another browser",
		text: "The sign-in was opened in another browser, or this one keeps no cookies.",
		next: "Close this window and open the address that mcp-proxy printed."}
	pageExpired = page{title: "Too late", text: "This sign-in has expired.", next: "Start again from your application."}
	pageTwice   = page{title: "Already received", text: "This sign-in has been answered before.", next: closeWindow}
)

func pageFailed(err error, retry string) page {
	if errors.Is(err, errDenied) {
		return page{title: "Sign-in cancelled", text: "Nothing was changed.", next: orRun, command: retry}
	}
	return page{title: "Sign-in failed", text: "What happened: " + excerpt(err.Error()) + ".", next: orRun, command: retry}
}

// pageUnmarked is for an error without our state. code is a registered one.
func pageUnmarked(code, retry string) page {
	return page{title: "Not taken", next: orRun, command: retry,
		text: "The answer has the error " + code + ", but not what shows that it belongs to this sign-in."}
}

const pageHTML = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}} – mcp-proxy</title>
<style>
body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 18vh auto 0; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
code { font-size: .95rem; }
.mark { font-size: 2rem; }
.good { color: #1a7f37; }
.bad { color: #cf222e; }
@media (prefers-color-scheme: dark) { .good { color: #3fb950; } .bad { color: #ff7b72; } }
</style>
</head>
<body>
<div class="mark {{class}}" aria-hidden="true">{{mark}}</div>
<h1>{{title}}</h1>
<p>{{text}}</p>
<p>{{next}}</p>
{{command}}</body>
</html>
`

func writePage(w http.ResponseWriter, status int, p page) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	// The address holds the code: it must not travel on in a Referer.
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	w.WriteHeader(status)
	mark, class, command := "✕", "bad", ""
	if p.good {
		mark, class = "✓", "good"
	}
	if p.command != "" {
		command = "<p><code>" + html.EscapeString(p.command) + "</code></p>\n"
	}
	// html/template would add a sixth to the size of the binary.
	fill := strings.NewReplacer("{{mark}}", mark, "{{class}}", class, "{{command}}", command,
		"{{title}}", html.EscapeString(p.title), "{{text}}", html.EscapeString(p.text), "{{next}}", html.EscapeString(p.next))
	io.WriteString(w, fill.Replace(pageHTML)) // a browser that went away is nobody's trouble
}
