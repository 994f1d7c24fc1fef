package conformance

import (
	_ "embed"
	"html/template"
	"io"
	"strings"
	"sync"

	"github.com/hasplock/hasp/backend"
)

//go:embed report.html
var pageText string

// page is parsed when it is first needed: the hasp command links it in, and writes
// a report once in a while.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"round": backend.Round,
		"join":  func(ss []string) string { return plain(strings.Join(ss, "; ")) },
		"plain": plain,
		"class": func(o Outcome) string { return strings.ReplaceAll(string(o), " ", "-") },
	}).Parse(pageText))
})

// WriteHTML writes the report as one page that needs nothing else: the rules, and
// for every rule with a history a timeline of who held the lock when, with the
// faults drawn in.
func (r Report) WriteHTML(w io.Writer) error {
	r = r.printable()
	return page().Execute(w, struct {
		Report
		Passed, Failed, NotJudged, Lacking int
		Timelines                          []timeline
	}{r, r.Count(Passed), r.Count(Failed), r.Count(NotJudged), r.Count(Lacking), r.timelines()})
}
