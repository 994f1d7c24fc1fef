//go:build unix

package conformance

// The mutants about renewals, TTLs and what outlives them.
func init() {
	mutants = append(mutants, []mutant{
		{name: "each grant renews once", rule: "renew-repeatable"},
		{name: "ten renewals", rule: "renew-often", also: []string{"renew-extends", "heartbeat-keeps"}},
		{name: "fifty renewals", rule: "renew-often"},
		{name: "a hundred renewals", rule: "renew-often"},
		{name: "renewals add up", rule: "stale-after-renewals"},
		{name: "renewals add a tenth", rule: "stale-after-renewals"},
		{name: "renewal doubles the TTL", rule: "stale-after-renewals"},
		{name: "anyone renews what is stale", rule: "renew-after-stale-successor"},

		{name: "renewal: looks, then extends", rule: "renew-atomic"},
		{name: "renewal: looks, then writes", rule: "renew-atomic"},
		{name: "release: looks, then deletes", rule: "release-atomic"},
		{name: "withdrawal: looks, then deletes", rule: "release-atomic", also: []string{"renew-atomic"}},
		{name: "late release: looks, then deletes", rule: "expiry-atomic"},
		{name: "late renewal: looks, then writes", rule: "expiry-atomic"},
		{name: "break: looks, then deletes", rule: "break-atomic"},

		{name: "raise: looks, then writes", rule: "raise-atomic"},
		{name: "a look removes what is stale", on: "look-atomic", rule: "look-atomic"},
		{name: "a list removes what is stale", on: "look-atomic", rule: "look-atomic"},
		{name: "a conflict is a loss", on: "renew-concurrent", rule: "renew-concurrent"},
		{name: "answers a repeated attempt from memory", rule: "acquire-repeat-after-takeover"},
		{name: "batch with the first one's TTL", rule: "renew-batch-ttls"},
		{name: "break ends all of its client", on: "break-spares-others", rule: "break-spares-others"},
		{name: "clear takes the live too", on: "clear-spares-live", rule: "clear-spares-live"},
		{name: "clear knows no prefix", on: "clear-spares-live", rule: "clear-spares-live"},
		{name: "a loss is told of all of its client", on: "break-spares-others", rule: "break-spares-others"},

		{name: "TTL doubled", rule: "ttl-exact"},
		{name: "TTL to the nearest second", rule: "ttl-exact"},
		{name: "TTL in whole seconds", rule: "ttl-exact", also: []string{"wait-takeover"}},
		{name: "deadlines overflow", rule: "ttl-largest"},
		{name: "TTLs of 200 years at most", rule: "ttl-largest"},
		{name: "says to wait a whole TTL", rule: "wait-takeover"},

		{name: "a look is a sign of life", rule: "stale-untouched", also: []string{"stale-shown"}},
		{name: "an attempt is a sign of life", on: "stale-untouched", rule: "stale-untouched"},
		{name: "a stranger's renewal is a sign of life", rule: "stale-untouched"},
		{name: "a stranger's release is a sign of life", rule: "stale-untouched"},
		{name: "a failed break is a sign of life", rule: "stale-untouched"},
		{name: "a list is a sign of life", rule: "stale-untouched"},
		{name: "raise is a sign of life", rule: "stale-untouched"},
		{name: "a watch is a sign of life", rule: "stale-untouched", also: []string{"wait-takeover"}},
		{name: "a renewal renews all of its client", on: "stale-untouched", rule: "stale-untouched"},
		{name: "an attempt renews all of its client", on: "stale-untouched", rule: "stale-untouched"},

		{name: "break of a stale holder does nothing", rule: "break-stale"},
		{name: "after a break of a stale holder it may renew", rule: "break-stale"},
		{name: "the broken may release", rule: "release-after-break"},
	}...)
}
