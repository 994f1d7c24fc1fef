package migrate

import (
	"fmt"
	"strings"

	"github.com/hasplock/hasp/backend"
)

// A holder's record in its store says of which migration and phase it is, before the
// name of its host: sweeps/both@ip-10-0-3-4. So an older hasp shows it too, as part of
// the host's name, and no store has to keep a field more. The host and not the owner,
// because a store may cut an owner's name short where it is longer than 64 bytes, and
// the beginning of the host's, which is what is needed, is kept by all.
//
// A holder without it (a hasp process that knows nothing of the migration, a lock file
// of the EfsLock protocol) does not look at the record, and counts as of the kind
// that must not be there.

// maxName is the longest name of a migration: with it a mark and a host's name still
// fit a file's name where efs keeps them.
const maxName = 24

// checkName refuses names of migrations that would not fit a mark.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("the migration's name %q has to have 1 to %d characters", name, maxName)
	}
	for _, r := range name {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return fmt.Errorf("the migration's name %q has the character %q: only A-Z, a-z, 0-9, - and _ are allowed", name, r)
		}
	}
	return nil
}

// mark is what a holder's host begins with.
func mark(name string, p Phase) string { return name + "/" + string(p) + "@" }

// marked returns h as it is recorded in a store.
func marked(h backend.Holder, name string, p Phase) backend.Holder {
	h.Host = mark(name, p) + h.Host
	return h
}

// unmarked takes the mark off a recorded holder; phase is "" if it has none.
func unmarked(h backend.Holder) (plain backend.Holder, name string, phase Phase) {
	head, host, ok := strings.Cut(h.Host, "@")
	if !ok {
		return h, "", ""
	}
	name, text, ok := strings.Cut(head, "/")
	p, err := ParsePhase(text)
	if !ok || err != nil || checkName(name) != nil {
		return h, "", ""
	}
	h.Host = host
	return h, name, p
}

// phaseOf is the phase that a recorded holder is of, "" if it is not of migration name.
func phaseOf(h backend.Holder, name string) Phase {
	if _, n, p := unmarked(h); n == name {
		return p
	}
	return ""
}
