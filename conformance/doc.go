// Package conformance finds out whether a backend keeps the promises that
// package backend asks of it. Every backend of this project passes it; one that
// you write for your own store does so, or not, in one go test:
//
//	func TestMain(m *testing.M) { conformance.Main(m) }
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Config{
//			Name:   "mystore",
//			URL:    "mystore:" + t.TempDir(),
//			MinTTL: 500 * time.Millisecond,
//			Lacks:  map[string]string{"watch": "the store cannot tell of changes"},
//		})
//	}
//
// URL is opened with backend.Open, so the test imports the backend's package;
// Config.Open and Main's argument open stores that have no URL. Main lets the
// suite start the test binary again as worker processes, which contend for
// locks, are killed and are stopped.
//
// # Rules
//
// Each rule has an id and a statement ([Rules] lists them), and a failure names
// the rule, what was seen and what was promised:
//
//	token-after-break: got 3 after 5: tokens never repeat or fall, even after a break
//
// A rule that cannot be tried is lacking, with the reason: a capability that
// Config.Lacks declares, a hook of Config that was not given. A capability that is
// missing without being declared fails. What fails, and rests on another rule that
// failed, is not judged, so that one defect does not make everything fail. Two
// rules come first, answers and error-definite: if one of them fails, no other is
// tried.
//
// # Time
//
// Expiry is waited for, in real time, so a run takes some 20 times MinTTL plus what
// contention takes. Bounds are such that a slow machine makes the suite
// see less, not more: a grant is too early only if its answer came before the TTL
// after the moment at which the holder's last sign of life was asked for, and late
// only if an attempt that began after TTL plus Slack was refused. Where a
// machine that stands still would make a good backend fail, the rule is repeated with
// a longer TTL.
//
// # Elsewhere
//
// [Check] runs the same rules without package testing, for hasp verify.
// [Report] marshals to JSON and writes a page with a timeline of who held which lock
// when; [WriteMatrix] shows several backends side by side.
package conformance
