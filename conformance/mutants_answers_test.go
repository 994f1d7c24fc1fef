//go:build unix

package conformance

// The mutants that would make everything fail, or end the program, were they not
// tried first; and those about cancelled calls and clients that are cut off.
func init() {
	mutants = append(mutants, []mutant{
		{name: "grants without a holder", rule: "answers"},
		{name: "grants with the store's key", rule: "answers"},
		{name: "grants without a token", rule: "answers"},
		{name: "renewed grants without a holder", rule: "answers"},
		{name: "records without their claim", rule: "answers"},
		{name: "records without a holder", rule: "answers"},
		{name: "records with the store's key", rule: "answers"},
		{name: "attempts wait", rule: "answers"},
		{name: "renewal never returns", rule: "answers"},
		{name: "panics when the key is held", rule: "answers"},
		{name: "panics when looking at a free key", rule: "answers"},
		{name: "panics when renewed by another", rule: "answers"},
		{name: "a watch without a stop", rule: "answers"},
		{name: "OnLoss without a cancel", rule: "answers"},

		{name: "cancelled acts later, in no time", rule: "cancel-in-flight"},
		{name: "cancelled after it acted, it says that it did not", rule: "error-definite"},
		{name: "acts, and says that it did not", rule: "error-definite"},
		{name: "its own claim is another's", rule: "error-definite"},
		{name: "cut off, calls take ten seconds", rule: "partition-unavailable", also: []string{"partition-prompt", "value-partition"}},
		{name: "cut off, a release takes ten seconds", rule: "partition-prompt"},
	}...)
}
