package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestCheckHistory(t *testing.T) {
	h := func(who string, token uint64, from, until int64) Hold {
		return Hold{Key: "k", Who: who, Token: token, From: from, Until: until}
	}
	for name, c := range map[string]struct {
		holds []Hold
		wrong int
	}{
		"nothing":                         {nil, 0},
		"one after the other":             {[]Hold{h("b", 2, 20, 30), h("a", 1, 10, 20)}, 0},
		"certain together":                {[]Hold{h("a", 1, 10, 21), h("b", 2, 20, 30)}, 1},
		"a long one over two":             {[]Hold{h("a", 1, 10, 100), h("b", 2, 20, 30), h("c", 3, 40, 50)}, 2},
		"token falls":                     {[]Hold{h("a", 5, 10, 20), h("b", 3, 20, 30)}, 1},
		"token repeats":                   {[]Hold{h("a", 5, 10, 20), h("b", 5, 20, 30)}, 1},
		"another key is another matter":   {[]Hold{h("a", 1, 10, 30), {Key: "l", Who: "b", Token: 1, From: 20, Until: 40}}, 0},
		"a killed one leaves an instant":  {[]Hold{h("a", 1, 10, 10), h("b", 2, 11, 30)}, 0},
		"both wrong at the same takeover": {[]Hold{h("a", 2, 10, 30), h("b", 1, 20, 40)}, 2},
	} {
		if wrong := CheckHistory(c.holds); len(wrong) != c.wrong {
			t.Errorf("%s: %d things are wrong, want %d: %q", name, len(wrong), c.wrong, wrong)
		}
	}
}

func sample() Report {
	ms := int64(time.Millisecond)
	return Report{
		Name: "a <store>", Started: time.Unix(0, 0), Duration: time.Second, MinTTL: time.Second, Slack: time.Second,
		Capabilities: []backend.Capability{backend.CapList},
		Results: []Result{
			{Rule: "history-clients", Statement: "all is well", Outcome: Passed, Notes: []string{"seed 7"}, Duration: time.Second},
			{Rule: "token-rises", Statement: "tokens rise", Outcome: Failed, Seen: []string{`got 3 after "5"`}, Dump: "goroutine 1"},
			{Rule: "fair-order", Statement: "in order", Outcome: Lacking, Reason: "not <promised>"},
		},
		Holds: []Hold{
			{Rule: "history-clients", Key: "k", Who: "client-1", Token: 1, From: 5 * ms, Until: 9 * ms, End: "released"},
			{Rule: "history-clients", Key: "k", Who: "client-2", Token: 2, From: 12 * ms, Until: 50 * ms, End: "killed"},
		},
		Faults: []Fault{{Rule: "history-clients", Who: "client-2", What: "killed", At: 50 * ms}},
	}
}

func TestReport(t *testing.T) {
	r := sample()
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fair-order       lacking  0s    not <promised>", "1 passed, 1 failed, 1 lacking"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &b)
		}
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), `token-rises: got 3 after "5": tokens rise`) {
		t.Errorf("Err is %v", err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil || back.Count(Failed) != 1 || len(back.Holds) != 2 {
		t.Errorf("out of JSON comes %+v, error %v", back, err)
	}
	b.Reset()
	other := Report{Name: "other", Results: []Result{{Rule: "token-rises", Outcome: Passed}}}
	if err := WriteMatrix(&b, r, other); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"token-rises      failed     passed", "fair-order       lacking    not run", "lacking: a <store>: not <promised> (fair-order)"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the matrix lacks %q:\n%s", want, &b)
		}
	}
}

// The page is well formed, needs nothing else, and shows what there is.
func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if m := regexp.MustCompile(`(src|href)="[^#]`).FindString(page); m != "" || strings.Contains(page, "@import") {
		t.Errorf("the page asks for something else: %s", m)
	}
	for _, want := range []string{"a &lt;store&gt;", "not &lt;promised&gt;", "got 3 after", "client-2, token 2", "client-2 killed at 45ms", "seed 7", "goroutine 1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	_, svg, _ := strings.Cut(page, "<svg")
	svg, _, _ = strings.Cut("<svg"+svg, "</svg>")
	d := xml.NewDecoder(strings.NewReader(svg + "</svg>"))
	bars := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the picture is not well formed: %v", err)
		}
		if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 2 {
		t.Errorf("the picture has %d bars and there were 2 holds", bars)
	}
}

// A page is for operators: no names that only Go programs know, nor the suite's own
// part of a key. It has a legend and fits a telephone.
func TestPageIsPlain(t *testing.T) {
	r := sample()
	for _, rule := range Rules() {
		reason, undeclared := rule.lacks(&Config{}, map[backend.Capability]bool{})
		r.Results = append(r.Results,
			Result{Rule: rule.ID, Statement: rule.Statement, Outcome: Failed, Seen: []string{`Renew gave <nil> and not ErrLost: "hasp-conformance/ABCDEFG2/token-rises-1/k1"`}},
			Result{Rule: rule.ID, Statement: rule.Statement, Outcome: NotJudged, Reason: reason + undeclared})
	}
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(b.String(), "<body>")
	if m := regexp.MustCompile(`\*[A-Z]\w+|\bErr[A-Z]\w+|\bConfig\.\w+|&lt;nil&gt;|\b(TryAcquire|RaiseToken|TokenFloor|RenewAll|RetryAfter|OnLoss)\b`).FindString(body); m != "" {
		t.Errorf("the page says %q", m)
	}
	if strings.Contains(body, "ABCDEFG2") || !strings.Contains(body, "…/k1") {
		t.Error("the page shows where keys are put")
	}
	for _, want := range []string{"not judged</dt>", "How to read this", "129 not judged"} {
		if !strings.Contains(strings.ReplaceAll(body, fmt.Sprintf("%d not judged", len(Rules())), "129 not judged"), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if !strings.Contains(b.String(), "max-width: 40rem") {
		t.Error("the page has no narrow layout")
	}
}

// What a store says, or calls itself, is shown so that it cannot deceive. JSON has
// it as it was.
func TestReportsArePrintable(t *testing.T) {
	const evil = "a\x1b[2J\u202eb\u2028\u0085"
	r := sample()
	r.Name = evil
	r.Results[0].Seen, r.Results[0].Notes, r.Results[0].Reason = []string{evil + "\n" + evil}, []string{evil}, evil
	r.Results = append(r.Results, Result{Rule: "exclusive-clients", Outcome: Failed, Seen: []string{evil}, Dump: "goroutine 1\n" + evil})
	r.Results = append(r.Results, Result{Rule: "token-floor", Outcome: Lacking, Reason: evil})
	r.Holds[0].Who, r.Holds[0].End = evil, evil
	r.Faults[0].Who, r.Faults[0].What = evil, evil
	before, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var table, matrix, page bytes.Buffer
	if err := errors.Join(r.WriteTable(&table), WriteMatrix(&matrix, r), r.WriteHTML(&page)); err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]string{
		"table": table.String(), "matrix": matrix.String(), "page": page.String(), "summary": r.Summary(),
		"failure": r.Results[len(r.Results)-2].String(), "lack": r.Results[len(r.Results)-1].String(), "error": r.Err().Error(),
	} {
		if i := strings.IndexFunc(s, func(c rune) bool { return c != '\n' && c != '\t' && !strconv.IsGraphic(c) }); i >= 0 {
			t.Errorf("the %s has %q", what, s[i:min(len(s), i+20)])
		}
		if what != "summary" && !strings.Contains(s, `\u202e`) {
			t.Errorf("the %s does not show what it leaves out:\n%s", what, s)
		}
	}
	var back Report
	if err := json.Unmarshal(before, &back); err != nil || back.Name != evil || back.Holds[0].Who != evil {
		t.Errorf("out of JSON comes %+q, error %v", back.Name, err)
	}
	if after, err := json.Marshal(r); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the report has changed by being shown, error %v", err)
	}
}

// What is lacking without a reason, or declared lacking and there, is a failure.
func TestConfigMistakes(t *testing.T) {
	store := memlock.New()
	open := func(context.Context) (backend.Backend, error) { return store.Client(), nil }
	for want, cfg := range map[string]Config{
		"neither Open nor URL":            {},
		"no backend for scheme":           {URL: "nothing:here"},
		"cannot be opened: on purpose":    {Open: func(context.Context) (backend.Backend, error) { return nil, errors.New("on purpose") }},
		"neither a capability nor a rule": {Open: open, Lacks: map[string]string{"tooken-rises": "typo"}},
		"gives no reason":                 {Open: open, Lacks: map[string]string{"token-rises": ""}},
		"which this backend has":          {Open: open, Lacks: map[string]string{string(backend.CapList): "not so"}},
		"too short to be measured":        {Open: open, MinTTL: time.Microsecond},
	} {
		if _, err := Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	s, err := newSuite(t.Context(), Config{Open: func(context.Context) (backend.Backend, error) { return bare{store.Client()}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	s.start(func(r *Rule, try func()) {
		if r.ID == "list-exact" || r.ID == "process-killed" {
			try()
		}
	})
	rep := s.finish()
	if rep.Count(Failed) != 2 || !strings.Contains(rep.Err().Error(), "no capability list, and Config.Lacks gives no reason") ||
		!strings.Contains(rep.Err().Error(), "Config.URL is empty") {
		t.Errorf("undeclared lacks gave %v", rep.Err())
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	store := memlock.New()
	rep, err := Check(ctx, Config{
		Open:     func(context.Context) (backend.Backend, error) { return store.Client(), nil },
		Lacks:    map[string]string{Processes: "memory of one process"},
		Progress: func(done, all int, _ Result) { cancel(why) },
	})
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if rep.Count(Failed) > 0 {
		t.Errorf("interrupted rules failed: %v", rep.Err())
	}
	rs, err := backend.List(t.Context(), store.Client(), "")
	if err != nil || len(rs) > 0 {
		t.Errorf("locks are left after an interruption: %v, error %v", rs, err)
	}
}

func TestRulesAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules() {
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(r.ID) || seen[r.ID] {
			t.Errorf("id %q", r.ID)
		}
		seen[r.ID] = true
		if r.Statement == "" || strings.HasSuffix(r.Statement, ".") || r.run == nil {
			t.Errorf("%s: %q", r.ID, r.Statement)
		}
		for _, on := range r.rests {
			if !slices.ContainsFunc(Rules(), func(o Rule) bool { return o.ID == on && on != r.ID }) {
				t.Errorf("%s rests on %q", r.ID, on)
			}
		}
	}
}
