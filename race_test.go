//go:build race

package main

func init() { largeSize = 4 << 20 } // with the race detector 64 MiB take a quarter of a minute
