package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// What was kept is printed, whatever becomes of the lock then; what was not is not,
// whatever else has gone well.
func TestKeepVerdict(t *testing.T) {
	away := backend.Unavailable(errors.New("reset"))
	for name, c := range map[string]struct {
		k           keeper
		ran         bool
		end         outcome
		err, cerr   error
		code        int
		out         string
		says, warns string
	}{
		"kept":                       {k: keeper{value: []byte("v")}, ran: true, out: "v"},
		"kept, of nothing":           {k: keeper{value: []byte{}}, ran: true},
		"found":                      {k: keeper{value: []byte("v")}, out: "v"},
		"kept, release unanswered":   {k: keeper{value: []byte("v")}, ran: true, err: &hasp.Error{Op: "release", Key: "k", Err: away}, out: "v", warns: `release "name": `},
		"kept, then lost":            {k: keeper{value: []byte("v")}, ran: true, err: &hasp.Error{Op: "release", Key: "k", Err: hasp.ErrLost}, out: "v", warns: "kept before that"},
		"found, close fails":         {k: keeper{value: []byte("v")}, cerr: away, out: "v", warns: "reset"},
		"lost before":                {k: keeper{failed: &hasp.Error{Op: "set value", Key: "k", Err: hasp.ErrLost}}, ran: true, err: &hasp.Error{Op: "set value", Key: "k", Err: hasp.ErrLost}, code: 76, says: "lock was lost"},
		"not answered":               {k: keeper{failed: &hasp.Error{Op: "set value", Key: "k", Err: away}}, ran: true, err: away, code: 69, says: "hasp value tells"},
		"too long":                   {k: keeper{failed: errTooLong}, ran: true, err: errTooLong, code: 65, says: "nothing is kept"},
		"the command fails":          {ran: true, end: outcome{code: 3}, code: 3},
		"the command was stopped":    {ran: true, end: outcome{code: 143, stopped: hasp.ErrLost, how: "stopped"}, code: 76, says: "stopped"},
		"the store keeps no values":  {err: &hasp.Error{Op: "value", Key: "k", Err: hasp.ErrUnsupported}, code: 64, says: `value "name": not supported`},
		"the command cannot be run":  {err: cannotRun("x", errors.New("why")), code: 126, says: "why"},
		"another holds it":           {err: &hasp.Error{Op: "acquire", Key: "k", Err: &hasp.HeldError{}}, code: 75, says: "name"},
		"an older value, by a token": {k: keeper{failed: &hasp.Error{Op: "set value", Key: "k", Err: hasp.ErrOldValue}}, ran: true, code: 70, says: "could not be kept: a later value"},
	} {
		var out bytes.Buffer
		var warned []string
		a := &app{values: &out}
		err := c.k.verdict(a, target{key: "k", name: "name"}, c.ran, c.end, c.err, c.cerr, func(err error) { warned = append(warned, err.Error()) })
		code := 0
		var e *exitError
		if errors.As(err, &e) {
			code = e.code
		}
		if code != c.code || out.String() != c.out || c.says != "" && !strings.Contains(fmt.Sprint(err), c.says) || (c.warns != "") != (len(warned) == 1) || !strings.Contains(strings.Join(warned, ""), c.warns) {
			t.Errorf("%s: exit %d, want %d; printed %q, want %q; %v; warned %q", name, code, c.code, out.String(), c.out, err, warned)
		}
	}
}
