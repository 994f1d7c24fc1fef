//go:build unix

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// sizes is a flag that takes whole numbers: 1,100,10000.
type sizes []int

func (s *sizes) String() string {
	var words []string
	for _, n := range *s {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ",")
}

// Set implements flag.Value.
func (s *sizes) Set(text string) error {
	var ns []int
	for _, word := range strings.Split(text, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a positive whole number", word)
		}
		if len(ns) > 0 && n <= ns[len(ns)-1] {
			return fmt.Errorf("%d does not come after %d", n, ns[len(ns)-1])
		}
		ns = append(ns, n)
	}
	*s = ns
	return nil
}
