//go:build race

package main

// largeSize is what a large message measures: under the race detector 64 MiB
// take a quarter of a minute.
const largeSize = 4 << 20
