package backend_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/hasplock/hasp/backend"
)

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"":                            "",
		"trainer-7":                   "trainer-7",
		`DOMAIN\user "x"`:             `DOMAIN\user "x"`,
		"Ärger 训练 مدرب 🚀":             "Ärger 训练 مدرب 🚀",
		"a\u3000b\u00a0c":             "a\u3000b\u00a0c",
		"\ufffd":                      "\ufffd",
		"a\nb\r\tc":                   `a\nb\r\tc`,
		"\x1b[2J\x1b]0;x\a":           `\x1b[2J\x1b]0;x\a`,
		"\x00\x7f\u0085\u009b31m":     `\x00\x7f\u0085\u009b31m`,
		"a\u2028b\u2029c":             `a\u2028b\u2029c`,
		"gnp.\u202etxt":               `gnp.\u202etxt`,
		"\u200e\u200f\u061c\u2066":    `\u200e\u200f\u061c\u2066`,
		"in\u200bvis\u00adi\ufeffble": `in\u200bvis\u00adi\ufeffble`,
		"tag\U000e0041":               `tag\U000e0041`,
		"bad\xff\xfeUTF-8\xe2\x82":    `bad\xff\xfeUTF-8\xe2\x82`,
	} {
		got := backend.Printable(s)
		if got != want {
			t.Errorf("%+q\ngot  %s\nwant %s", s, got, want)
		}
		if again := backend.Printable(got); again != got {
			t.Errorf("%+q changes again: %s", got, again)
		}
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			if got := backend.Printable("a" + string(r)); strings.ContainsRune(got, r) && r != 0xfffd && !unicode.Is(unicode.Cs, r) {
				t.Errorf("%U is printed raw", r)
			}
		}
	}
}

func TestText(t *testing.T) {
	for want, err := range map[string]error{
		"no error":                 nil,
		"it failed":                errors.New("it failed"),
		"one; two; gnp.\\u202etxt": errors.Join(errors.New("one"), errors.New("two"), errors.New("gnp.\u202etxt")),
		"a; b":                     errors.New("\n\ta\r\n\n  b\n"),
		"an error without words (*errors.errorString)":                            errors.New(""),
		"an error without words (*errors.joinError)":                              errors.Join(errors.New(""), errors.New(" ")),
		"lock store is unavailable: an error without words (*errors.errorString)": backend.Unavailable(errors.New("")),
	} {
		if got := backend.Text(err); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// Nothing that a holder may call itself gets out of the text of a record.
func TestRecordTextsArePrintable(t *testing.T) {
	evil := "a\nb\x1b[31m\u202e\u2028\x9b\xff"
	r := backend.Record{Key: evil, State: backend.Held, ID: evil, Note: evil, Holder: backend.Holder{Owner: evil, Host: evil, PID: 1}}
	h := &backend.HeldError{Record: r}
	for _, s := range []string{r.String(), r.Holder.String(), h.Error(), backend.Unavailable(errors.New(evil)).Error(), fmt.Sprint(h, r, r.Holder)} {
		for _, c := range s {
			if !unicode.IsGraphic(c) || c == 0xfffd {
				t.Errorf("%U in %+q", c, s)
			}
		}
		if !strings.Contains(s, `a\nb\x1b[31m\u202e\u2028\x9b\xff`) && !strings.Contains(s, `; b\x1b`) {
			t.Errorf("it says nothing of what it left out: %s", s)
		}
	}
}
