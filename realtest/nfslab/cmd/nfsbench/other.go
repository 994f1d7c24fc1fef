//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "nfsbench needs Linux: it boots user-mode kernels")
	os.Exit(1)
}
