//go:build unix

package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// sample is a number of measurements of one thing.
type sample []float64

func (s *sample) add(d time.Duration) { *s = append(*s, d.Seconds()) }

// quantile is the smallest measurement that at least p of them do not exceed.
func (s sample) quantile(p float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func (s sample) median() float64 { return s.quantile(0.5) }

// over divides s by t, measurement by measurement, each pair made in one round:
// what slows a round down slows both.
func (s sample) over(t sample) sample {
	q := make(sample, min(len(s), len(t)))
	for i := range q {
		q[i] = s[i] / t[i]
	}
	return q
}

// jain is Jain's index of fairness: 1 if all got the same, 1/n if one got it all.
func jain(counts []int) float64 {
	var sum, squares float64
	for _, n := range counts {
		sum += float64(n)
		squares += float64(n) * float64(n)
	}
	if squares == 0 {
		return math.NaN()
	}
	return sum * sum / (float64(len(counts)) * squares)
}

// seconds formats a time given in seconds to three figures.
func seconds(s float64) string {
	switch {
	case math.IsNaN(s):
		return "-"
	case s < 1e-3:
		return figures(s*1e6) + " µs"
	case s < 1:
		return figures(s*1e3) + " ms"
	}
	return figures(s) + " s"
}

// figures formats x to three significant figures, without an exponent.
func figures(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "-"
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 1:
		return fmt.Sprintf("%.2f", x)
	case a >= 0.01:
		return fmt.Sprintf("%.3f", x)
	}
	return fmt.Sprintf("%.5f", x)
}
