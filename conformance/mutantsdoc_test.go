//go:build unix

package conformance

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
)

const mutantsDoc = "../docs/mutants.md"

// docs/mutants.md lists the mutants that there are. HASP_MUTANTS_DOC=write writes it.
func TestMutantsDoc(t *testing.T) {
	var b bytes.Buffer
	rules := Rules()
	ms := slices.Clone(mutants)
	place := func(id string) int { return slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id }) }
	slices.SortStableFunc(ms, func(a, b mutant) int { return place(a.rule) - place(b.rule) })
	fmt.Fprintf(&b, `# What the conformance suite is tested with

%d stores that are wrong in one way each, and the rule that says so: it fails, and no other does but those named after it, which
cannot but notice the same. Each of the %d rules is failed by one. The table is checked by
`+"`go test -run 'TestMutants$' ./conformance`"+`, which runs every rule on every one of these stores, and it is written by
`+"`HASP_MUTANTS_DOC=write go test -run TestMutantsDoc ./conformance`"+`.

| wrong store | rule that says so | may notice it too |
|---|---|---|
`, len(ms), len(rules))
	names := map[string]bool{}
	for _, m := range ms {
		also := ""
		for i, r := range m.also {
			if i > 0 {
				also += ", "
			}
			also += "`" + r + "`"
			if place(r) < 0 {
				t.Errorf("%s: there is no rule %s", m.name, r)
			}
		}
		if place(m.rule) < 0 || names[m.name] {
			t.Errorf("%s: its rule is %q, and the name is used twice: %v", m.name, m.rule, names[m.name])
		}
		names[m.name] = true
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", m.name, m.rule, also)
	}
	fmt.Fprintf(&b, "\n## The rules\n\n| rule | what it says |\n|---|---|\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r.ID, r.Statement)
	}
	if os.Getenv("HASP_MUTANTS_DOC") == "write" {
		if err := os.WriteFile(mutantsDoc, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(mutantsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not what the tables of mutants and rules say: run HASP_MUTANTS_DOC=write go test -run TestMutantsDoc ./conformance", mutantsDoc)
	}
}
