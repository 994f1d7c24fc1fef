package backend

import (
	"context"
	"fmt"
	"net/url"
	"sync"
)

// Level is how bad a Finding is.
type Level string

// The levels.
const (
	// LevelOK: as it should be, or good to know.
	LevelOK Level = "ok"
	// LevelWarning: locks exclude, and something is worse than it could be.
	LevelWarning Level = "warning"
	// LevelProblem: locks do not work, may be lost, or do not exclude.
	LevelProblem Level = "problem"
)

// Finding is one thing that was looked at in a store.
type Finding struct {
	// ID is what was looked at, in a word that does not change, such as "eviction".
	ID    string
	Level Level
	// Subject is what part of the store it is about, such as an endpoint; empty if
	// it is the whole.
	Subject string
	// Seen is what was found, with figures.
	Seen string
	// Advice is what to do about it; empty if that is nothing.
	Advice string
}

// Finder is where an examiner's findings go.
type Finder func(Finding)

// OK finds that something is as it should be.
func (y Finder) OK(id, format string, args ...any) {
	y(Finding{ID: id, Level: LevelOK, Seen: fmt.Sprintf(format, args...)})
}

// Warn finds something that is worse than it could be.
func (y Finder) Warn(id, advice, format string, args ...any) {
	y(Finding{ID: id, Level: LevelWarning, Seen: fmt.Sprintf(format, args...), Advice: advice})
}

// Problem finds what locks cannot be trusted with.
func (y Finder) Problem(id, advice, format string, args ...any) {
	y(Finding{ID: id, Level: LevelProblem, Seen: fmt.Sprintf(format, args...), Advice: advice})
}

// About returns a Finder for findings about a part of the store.
func (y Finder) About(subject string) Finder {
	return func(f Finding) {
		f.Subject = subject
		y(f)
	}
}

// Examiner looks a store over for an operator: how it is set up, and how it does what locks
// rest on. It is not a Backend, because it has to work where Open would refuse.
//
// Nothing that it says has a secret in it.
type Examiner interface {
	// Examine calls found with each finding as soon as it is known, from one
	// goroutine. It tries things only under names that no lock has, and leaves nothing
	// behind, also when ctx ends. Its error says that it could not go on.
	Examine(ctx context.Context, found Finder) error
	// Scratch opens the store as Open does, with its checks, for locks apart from all
	// others. remove closes it and takes away what was left of them; it is called in
	// any case, with a context of its own. All are nil if Examine found the store in a state
	// in which there is nothing to try, and said so.
	Scratch(ctx context.Context) (b Backend, remove func(context.Context) error, err error)
	// Close lets go of what the examiner itself holds.
	Close() error
}

// PeerExaminer is for examiners of stores that are seen through a client with a cache of
// its own, such as a mount.
type PeerExaminer interface {
	// ExaminePeer looks whether peer, a URL or a path, is another view of the same store, and
	// whether each view shows what is done through the other.
	ExaminePeer(ctx context.Context, peer string, found Finder) error
}

// ExaminerOpener makes an examiner for a URL. It fails if the URL is wrong, and not because
// of the state that the store is in.
type ExaminerOpener func(ctx context.Context, u *url.URL) (Examiner, error)

var examiners = struct {
	sync.Mutex
	openers map[string]ExaminerOpener
}{openers: map[string]ExaminerOpener{}}

// RegisterExaminer makes OpenExaminer know a URL scheme, as Register does for Open. A
// backend on other backends opens those stores' examiners and calls each of them.
func RegisterExaminer(scheme string, open ExaminerOpener) {
	examiners.Lock()
	defer examiners.Unlock()
	if _, dup := examiners.openers[scheme]; dup || scheme == "" || open == nil {
		panic(fmt.Sprintf("backend: RegisterExaminer of scheme %q: empty, nil or taken", scheme))
	}
	examiners.openers[scheme] = open
}

// OpenExaminer returns the examiner for the store that rawURL, which is as Open takes it,
// names. The error matches ErrUnsupported if the scheme is known and has none.
func OpenExaminer(ctx context.Context, rawURL string) (Examiner, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	if _, err := opener(u, rawURL); err != nil {
		return nil, err
	}
	examiners.Lock()
	open := examiners.openers[u.Scheme]
	examiners.Unlock()
	if open == nil {
		return nil, fmt.Errorf("hasp: examine %q: %w: it has no examination of its own", RedactURL(rawURL), ErrUnsupported)
	}
	x, err := open(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("hasp: examine %q: %w", RedactURL(rawURL), err)
	}
	return x, nil
}
