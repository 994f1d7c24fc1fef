//go:build !linux

package main

func main() { panic("nfshost runs in Linux kernels only") }
