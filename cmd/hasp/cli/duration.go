package cli

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// duration is a flag's value. It says what a number without a unit lacks, and shows
// 300s as such.
type duration time.Duration

func durationVar(f *pflag.FlagSet, p *time.Duration, name string, def time.Duration, usage string) {
	*p = def
	f.Var((*duration)(p), name, usage)
}

func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err == nil {
		*d = duration(v)
		return nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fmt.Errorf("it has no unit: write %ss for seconds", s)
	}
	return errors.New(`want a duration such as "300s", "5m" or "1h30m"`)
}

func (d *duration) String() string {
	switch v := time.Duration(*d); {
	case v == 0:
		return "0" // which help leaves out
	case v%time.Second == 0:
		return fmt.Sprintf("%ds", v/time.Second)
	default:
		return v.String()
	}
}

func (d *duration) Type() string { return "duration" }
