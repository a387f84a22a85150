package main

// The page that the browser shows when a sign-in comes back: plain, escaped,
// no script, nothing from elsewhere. It knows what to say, not why.

import (
	"html"
	"io"
	"net/http"
	"strings"
)

type page struct {
	Title string
	Text  string
	Next  string // what to do now
	Good  bool
}

func pageSignedIn(server string) page {
	return page{"Signed in", "mcp-proxy can now use " + server + " for you.", "You can close this window and go back to your application.", true}
}

var (
	pageStray        = page{"Not a sign-in", "This address only takes the answer to a sign-in that mcp-proxy began.", "You can close this window.", false}
	pageWrongState   = page{"Not this sign-in", "The answer does not belong to the sign-in that is waiting: it may be an old one.", "Close this window and use the newest sign-in page, or start again from your application.", false}
	pageOtherBrowser = page{"Another browser", "The sign-in was opened in another browser, or this one keeps no cookies.", "Close this window and open the address that mcp-proxy printed.", false}
	pageTwice        = page{"Already received", "This sign-in has been answered before.", "You can close this window.", false}
)

func pageFailed(err error) page {
	return page{"Sign-in failed", "What happened: " + excerpt(err.Error()) + ".", "You can close this window. Try again from your application, or run mcp-proxy login in a terminal.", false}
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
</body>
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
	mark, class := "✕", "bad"
	if p.Good {
		mark, class = "✓", "good"
	}
	// html/template would add a sixth to the size of the binary.
	fill := strings.NewReplacer("{{mark}}", mark, "{{class}}", class, "{{title}}", html.EscapeString(p.Title), "{{text}}", html.EscapeString(p.Text), "{{next}}", html.EscapeString(p.Next))
	io.WriteString(w, fill.Replace(pageHTML)) // a browser that went away is nobody's trouble
}
