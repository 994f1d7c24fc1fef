package backend_test

import (
	"strings"
	"testing"

	"github.com/hasplock/hasp/backend"
)

func TestValuesAreOrderedByTokenThenSequence(t *testing.T) {
	ordered := []backend.Value{{}, {Token: 1, Seq: 1}, {Token: 1, Seq: 2}, {Token: 2, Seq: 1, Deleted: true}, {Token: 2, Seq: 3}}
	for i, v := range ordered {
		for j, w := range ordered {
			if got := v.Compare(w); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%+v against %+v: %d", v, w, got)
			}
		}
		if want := i != 0 && i != 3; v.Exists() != want {
			t.Errorf("%+v exists: %v", v, v.Exists())
		}
	}
}

func TestValidateValue(t *testing.T) {
	for _, v := range []backend.Value{
		{Token: 1, Seq: 1}, {Token: 1, Seq: 1, Deleted: true},
		{Token: 1<<64 - 1, Seq: 1, Data: make([]byte, backend.MaxValueLen)},
	} {
		if err := v.Validate(); err != nil {
			t.Errorf("%d bytes, token %d: %v", len(v.Data), v.Token, err)
		}
	}
	for want, v := range map[string]backend.Value{
		"65537 bytes: 65536 is the limit": {Token: 1, Seq: 1, Data: make([]byte, backend.MaxValueLen+1)},
		"token 0":                         {Seq: 1},
		"sequence 0":                      {Token: 1},
		"deleted and has data":            {Token: 1, Seq: 1, Deleted: true, Data: []byte("x")},
	} {
		if err := v.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
