//go:build !race

package main

// largeSize is what a large message measures.
const largeSize = 64 << 20
