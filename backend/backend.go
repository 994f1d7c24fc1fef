// Package backend is the contract between hasp's engine and the stores that
// hold its locks. Users pick a backend and hand it to hasp.New; only those who
// write one read on.
//
// # Who does what
//
// The engine (package hasp) owns time and waiting: retries, deadlines,
// heartbeats, local queues, logging. A backend makes one attempt per call and
// says what it saw. It never sleeps to wait for a lock, never retries on the
// caller's behalf beyond what one attempt needs to learn its own outcome, and
// starts no goroutine except to watch.
//
// # Optional interfaces
//
//   - [Watcher]: waiters are woken instead of polling
//   - [Breaker]: an operator's forced release
//   - [Lister]: enumerating keys
//   - [Clearer]: clearing away what dead holders left in others' way
//   - [Sealer]: closing a key for good, because its lock is kept in another store now
//   - [BatchRenewer]: many heartbeats in one request
//   - [LossNotifier]: loss is reported as soon as the store tells
//   - [TokenRaiser]: tokens can be lifted above another store's
//   - [ValueStore]: a value is kept beside a key, which only the key's holder can set
//   - [Prompt]: no call outlives its context
//   - [Repeater]: a request may be executed twice
//   - [Punctual]: no call outlives its deadline
//   - [Warner]: what was found suspicious when the backend was opened
//   - [Selective]: which of the above a backend that is made of others really has
//
// [Capabilities] tells which of them a backend has. An [Examiner] looks a store over
// for an operator; it is found by the URL, since it also has to work where Open refuses.
//
// # Repetition
//
// Every verb is safe to repeat with the same [Claim.ID] or [Grant]: an answer
// can be lost after the store has acted, and the engine then asks again.
// Durations, never absolute times, cross this interface, because two hosts'
// clocks are never compared.
//
// # Words
//
// An error says what happened, where, and what to do. It does not name the verb and
// the key: whoever called adds both, once. A key or a holder's name in it is quoted
// (%q), or comes from [Record.String] or [Printable]: both are anyone's text.
package backend

import (
	"context"
	"time"
)

// Backend is one client's connection to a store of locks. Its methods are
// called concurrently. Each must return soon after its context ends; where a
// system call cannot be interrupted the engine abandons the call and deals
// with its outcome when it returns.
type Backend interface {
	// Acquire makes one attempt to take key for c and never waits for another
	// holder.
	//
	// If key is free, or held by a holder whose TTL has run out by the store's
	// own clock, Acquire takes it and returns a Grant with c's ID, c's TTL (but see
	// Grant.TTL) and a Token that is greater than every token ever granted for key
	// and greater than c.TokenFloor. If two claims race, at most one succeeds.
	//
	// If c.ID already holds key (an earlier attempt took it and its answer was
	// lost), Acquire returns that same token again, and restarts the TTL: the
	// engine counts the deadline from this call.
	//
	// If another holds key, Acquire returns a *HeldError, with the holder as far
	// as it is known. It must not return a *HeldError when it does not know.
	//
	// If Acquire cannot tell whether it took key, the error must match
	// ErrUnavailable. Any other error promises that c.ID does not hold key; it
	// must not be returned once the store may have acted.
	Acquire(ctx context.Context, key string, c Claim) (Grant, error)

	// Renew restarts g's TTL and returns the grant to pass from then on.
	//
	// An error that matches ErrLost is definite: g does not hold its key and
	// never will again. Any other error means that the outcome is unknown, and
	// the engine calls Renew with the same g again. Renew must never take back a
	// key that another has taken or that was broken, and must not revive a grant
	// that has been released.
	Renew(ctx context.Context, g Grant) (Grant, error)

	// Release frees g's key if g still holds it and never frees another's.
	// Releasing the same grant twice is not an error as long as nobody has taken
	// the key in between. It returns an error that matches ErrLost if g had
	// already been taken over, broken, or has expired and was forgotten.
	//
	// After a Release of unknown outcome the engine calls Release again. ErrLost then
	// says only that g does not hold its key: the first request may have freed it, and
	// another have taken it. The engine asks Inspect how long that one has had the key
	// (Record.HeldFor), and reports a loss if it was before the first request.
	//
	// The engine also calls Release after an Acquire of unknown outcome, with a
	// grant that has only Key and ID: whatever that claim holds is freed then,
	// and ErrLost means that there was nothing.
	Release(ctx context.Context, g Grant) error

	// Inspect tells who holds key now, as the store sees it and not from a
	// cache. A key that nobody has ever locked is free, not an error.
	Inspect(ctx context.Context, key string) (Record, error)

	// Close lets go of what the backend itself holds (connections, files). It
	// does not release locks. Calls after Close fail with ErrClosed, except
	// another Close, which does nothing and returns nil.
	Close() error
}

// Claim is what an Acquire asks for.
type Claim struct {
	// ID identifies one Acquire of one caller, and the grant that comes of it.
	// It is 1 to 64 characters of A-Z, a-z, 0-9, '-' and '_', and unique.
	ID string
	// Holder is recorded for people and for HeldError; it decides nothing.
	Holder Holder
	// TTL is how long the lock stays valid after its holder's last sign of life.
	// It is the holder's TTL that counts, not that of whoever waits. At least
	// 1 ms; a store with coarser time rounds it up, never down.
	TTL time.Duration
	// TokenFloor is a token that the granted one must exceed.
	TokenFloor uint64
}

// Grant is what an Acquire got: a plain value that may be copied and kept.
type Grant struct {
	Key    string
	ID     string
	Holder Holder
	// Token is the fencing token: it strictly increases from one acquisition of
	// a key to the next, across releases, expiry, breaks and restarts.
	Token uint64
	// TTL is the TTL in force: at least the one claimed, except that a claim that
	// was registered with Watch may be granted less at first. What it is granted
	// is kept in full, and the first Renew gives it at least the TTL claimed, and so
	// does every later one. The engine sends that Renew at once, beside its
	// caller's work. So a store can keep those who wait on a short lease, which a
	// dead one does not keep for long, and hand the key over without a write.
	TTL time.Duration
	// State is the backend's own. The engine carries it from one call to the
	// next and never looks inside. A backend must cope with its absence by
	// asking the store.
	State any
}

// Holder says who holds, or wants, a lock, in words for people.
type Holder struct {
	Owner string // a name of the user's choosing, such as a job's or a pod's
	Host  string
	PID   int
}

// Watcher is for backends that can tell waiters when to try again.
type Watcher interface {
	// Watch registers c as waiting for key. The channel then receives (or is
	// closed) whenever another Acquire by c is worth making, and at least once
	// if key is free, or it is c's turn, once c is registered, or becomes so at
	// any time after that: the engine's last attempt came before, and it makes
	// no other on account of the registration. A wake-up too many is allowed, one too few is
	// not, except that waking for an expiry is left to the engine where
	// HeldError.RetryAfter is given.
	//
	// A backend with a queue enqueues c here, so that attempts by those who do
	// not wait are not queued; Acquire by c.ID then respects its place.
	//
	// Stop removes every trace of the registration. It is called exactly once,
	// with granted set if an Acquire by c succeeded; its context outlives the
	// caller's and bounds it. The channel need not be closed after Stop.
	Watch(ctx context.Context, key string, c Claim) (wake <-chan struct{}, stop func(ctx context.Context, granted bool) error, err error)
}

// Breaker is for backends whose locks an operator can force open.
type Breaker interface {
	// Break frees key if its holder has this token, stale or not. If another
	// holds it by now, Break changes nothing and returns a *HeldError with that
	// one; if nobody does, an error that matches ErrNotHeld. The token stays
	// used up: the next one is greater.
	Break(ctx context.Context, key string, token uint64) error
}

// Lister is for backends that can enumerate their keys.
type Lister interface {
	// List returns the records of the held (and stale, and sealed) keys that start with
	// prefix, in the keys' byte order. Free keys are left out. A key whose state
	// cannot be read is one record in state Unknown, and the others are told.
	List(ctx context.Context, prefix string) ([]Record, error)
}

// Clearer is for backends whose dead holders leave something behind that keeps
// programs other than hasp's out.
type Clearer interface {
	// Clear takes away what is left for the keys that start with prefix and that
	// nobody holds, and with stale also for those whose holder is stale. It returns
	// their records from before, and one in state Unknown for each key that it could
	// not deal with. It never touches a live holder.
	Clear(ctx context.Context, prefix string, stale bool) ([]Record, error)
}

// Sealer is for backends that can close a key to all who do not know that its lock is kept
// in another store now, programs other than hasp's included.
type Sealer interface {
	// Seal closes key. From then on every Acquire of it fails with an error that matches
	// ErrMoved, and neither time, nor a clock, nor Break ends that: only Unseal does. To is the
	// URL of the store that has the lock now; records and errors show it as RedactURL does.
	// Key need not have been locked before.
	//
	// Seal takes the lock first: the error is a *HeldError if another holds it. A key that is
	// sealed already is sealed again, with this URL. After an error that matches
	// ErrUnavailable it may or may not be sealed, and Seal is repeated.
	Seal(ctx context.Context, key, to string) error

	// Unseal undoes it. An error that matches ErrNotHeld says that key is not sealed.
	// It may have been by an earlier Unseal of unknown outcome.
	Unseal(ctx context.Context, key string) error

	// SealAll seals each key that starts with prefix and that the store knows of, and also
	// what looks like another program's lock. It tells what became of each, in the keys' byte
	// order, and goes on after one that could not be sealed. Keys for which skip is true
	// are left alone; a nil skip skips none.
	SealAll(ctx context.Context, prefix, to string, skip func(key string) bool) ([]Sealing, error)

	// UnsealAll unseals the keys that start with prefix and are sealed.
	UnsealAll(ctx context.Context, prefix string) ([]Sealing, error)
}

// Sealing is what became of one key: it was sealed, or unsealed, if Err is nil.
type Sealing struct {
	Key string
	Err error
}

// BatchRenewer is for backends that can renew many grants in one request.
type BatchRenewer interface {
	// RenewAll does what Renew does for each grant. The answer has as many
	// elements, in the same order. It never returns fewer because some failed.
	RenewAll(ctx context.Context, gs []Grant) []Renewal
}

// Renewal is the outcome of one grant in a batch: Grant if Err is nil.
type Renewal struct {
	Grant Grant
	Err   error
}

// LossNotifier is for backends whose store tells them when a key is gone.
type LossNotifier interface {
	// OnLoss arranges for f to be called, from any goroutine, when the backend
	// learns that the grant with this key and ID is definitely lost. It may be
	// called for a grant that is being released; f ignores that. f returns fast
	// and does not call the backend. cancel ends the arrangement.
	OnLoss(f func(key, id string)) (cancel func())
}

// TokenRaiser is for backends whose tokens can be lifted, so that they keep
// rising when a fleet moves from one store to another.
type TokenRaiser interface {
	// RaiseToken makes every token granted for key from now on greater than
	// floor. It does not touch who holds key. Raising to less than what has been
	// granted changes nothing and is no error.
	RaiseToken(ctx context.Context, key string, floor uint64) error
}

// Prompt is for backends whose every call returns soon after its context has
// ended, because nothing in it waits for anything else. The engine then saves
// itself the goroutine that it otherwise needs to be able to leave a call behind.
// A backend that makes system calls on a file system that may be on a network is
// not prompt.
type Prompt interface {
	Prompt() bool
}

// Punctual is for backends whose every call returns soon after its context's
// deadline, though not always when the context is cancelled before that: many
// client libraries look at deadlines only. The engine then saves itself the
// goroutine for calls that only closing the Locker can cancel: each Release, and
// an Acquire whose context has no cancellation. Close waits for them, up to the
// request timeout, if the store does not answer.
type Punctual interface {
	Punctual() bool
}

// Repeater is for backends whose client may execute a request twice without anybody
// knowing: client libraries send a request again when its answer was lost. A Release that
// does so finds the key in the next holder's hands, and is refused, although it is
// the first that the engine has made. The engine then looks who has the key before it
// calls the lease lost, as it does when it has repeated a Release itself.
type Repeater interface {
	Repeats() bool
}

// Warner is for backends that look their store over when they are opened.
type Warner interface {
	// Warnings returns what a user should know of but that does not make the
	// locks unsafe enough to refuse, one sentence each.
	Warnings() []string
}
