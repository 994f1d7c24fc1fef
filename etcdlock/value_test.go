package etcdlock

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What is written by hand is what the library would write, but for its care for HTML.
func TestEncode(t *testing.T) {
	for _, h := range []backend.Holder{
		{},
		{Owner: "deploy@host:4711", Host: "host.example", PID: 4711},
		{Owner: "a \"b\" \\c\t\n\x00\x7f", Host: "höst <&>  \u2028 \U0001f512"},
		{Owner: "not UTF-8: \xff\xfe", PID: -1},
		{Owner: "a<b>&c"},
	} {
		v := newValue(backend.Claim{ID: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", Holder: h}, 30*time.Second, 1<<64-1)
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(!strings.HasPrefix(h.Owner, "a<"))
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
		if got, want := string(v.encode()), strings.TrimSpace(want.String()); got != want {
			t.Errorf("holder %+v:\n got %s\nwant %s", h, got, want)
		}
	}
}
