//go:build unix

package conformance

// The mutants about watches, loss notices, batches and lists.
func init() {
	mutants = append(mutants, []mutant{
		{name: "break wakes nobody", rule: "wait-woken-always"},
		{name: "withdrawal wakes nobody", rule: "wait-woken-always"},
		{name: "one release in twenty wakes nobody", rule: "wait-woken-always", also: []string{"wait-watch-many", "wait-watch-stop-own", "fair-order"}},
		{name: "only the first watch of a key is told", rule: "wait-watch-many"},
		{name: "only the last watch of a key is told", rule: "wait-watch-many"},
		{name: "only the last watch of a client is told", rule: "wait-watch-many"},
		{name: "only sixteen watches of a client are told", rule: "wait-watch-many"},
		{name: "a watch that ends ends all of its key", rule: "wait-watch-stop-own"},
		{name: "a watch that ends ends all of its client", rule: "wait-watch-stop-own"},
		{name: "ended watches are still told", rule: "wait-watch-traceless"},
		{name: "ended watches are closed with their client", rule: "wait-watch-traceless"},

		{name: "one loss in twenty is not told", rule: "loss-notified-always"},
		{name: "losses are told by the store's own key", rule: "loss-notified", also: []string{"loss-notified-always"}},
		{name: "only the first OnLoss is told", rule: "loss-notified-all"},
		{name: "only the last OnLoss is told", rule: "loss-notified-all"},
		{name: "only sixteen OnLoss are told", rule: "loss-notified-all"},
		{name: "cancel of OnLoss does nothing", rule: "loss-cancelled"},
		{name: "cancel of OnLoss ends all", rule: "loss-cancelled"},

		{name: "batch answers in reverse", rule: "renew-batch", also: []string{"renew-batch-order"}},
		{name: "batch answers shuffled", rule: "renew-batch", also: []string{"renew-batch-order"}},
		{name: "batch answers by key", rule: "renew-batch-order"},
		{name: "batch answers the lost last", rule: "renew-batch", also: []string{"renew-batch-order"}},
		{name: "errors of a batch are shuffled", rule: "renew-batch", also: []string{"renew-batch-order"}},
		{name: "batch renews a hundred", rule: "renew-batch-many"},
		{name: "batch renews 256", rule: "renew-batch-many"},
		{name: "list of a hundred", rule: "list-many"},
		{name: "list of pages", rule: "list-many"},

		{name: "wakes its own process only", file: "watch:wakes its own process only", rule: "process-woken"},
		{name: "tells its own process of losses only", file: "watch:tells its own process of losses only", rule: "process-loss-notified"},
		{name: "inspects what its process knows", file: "watch:inspects what its process knows", rule: "process-inspect-fresh", also: []string{"process-holder-named", "process-stopped", "process-killed"}},
	}...)
}
