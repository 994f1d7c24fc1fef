//go:build unix

package conformance

// The mutants about what tells claims, keys and tokens apart.
func init() {
	mutants = append(mutants, []mutant{
		{name: "claims cut to 32", rule: "claim-ids"},
		{name: "claims cut to 48", rule: "claim-ids"},
		{name: "claims by their beginning", rule: "claim-ids"},
		{name: "claims by their end", rule: "claim-ids"},
		{name: "claims folded in attempts", rule: "claim-ids"},

		{name: "keys as paths", rule: "keys-paths"},
		{name: "keys without the last slash", rule: "keys-paths"},
		{name: "keys without doubled slashes", rule: "keys-paths"},
		{name: "keys with one kind of slash", rule: "keys-paths"},
		{name: "keys without dots at the end", rule: "keys-exact", also: []string{"keys-paths"}},
		{name: "16 bits of keys", on: "keys-many", rule: "keys-many"},
		{name: "14 bits of keys", on: "keys-many", rule: "keys-many"},

		{name: "floor ignored at a takeover", rule: "token-floor-takeover"},
		{name: "raise ignored at a takeover", rule: "token-floor-takeover"},
		{name: "takeover takes the time for a token", rule: "token-ahead"},
		{name: "after a break a token falls to the time", rule: "token-ahead"},
		{name: "with its client a token falls to the time", rule: "token-ahead"},
	}...)
}
