package conformance

import "github.com/hasplock/hasp/backend"

// Rule is one promise that every backend keeps.
type Rule struct {
	ID        string // in kebab-case
	Statement string // one sentence

	needs []backend.Capability
	rests []string // if one of these rules fails, a failure of this one says nothing
	hook  hook
	procs bool // it starts worker processes
	phase phase
	run   func(*trial)
}

// hook names the field of Config that a rule cannot do without.
type hook string

const (
	hookSkew      hook = "Skew"
	hookPartition hook = "Partition"
	hookRestart   hook = "Restart"
	hookWipe      hook = "Wipe"
	hookFair      hook = "Fair"
	hookStop      hook = "SIGSTOP"
)

// phase says what a rule may run beside.
type phase int

const (
	quiet phase = iota // beside other quiet rules: it mostly waits
	busy               // alone, since it uses the machine or measures it
	alone              // alone, since it does something to the whole store
	last               // after all others
	first              // alone, before all others
)

var phases = []phase{first, quiet, busy, alone, last}

// Rules lists the rules in the order in which results are shown.
func Rules() []Rule {
	var rs []Rule
	for _, group := range [][]Rule{
		answerRules, exclusionRules, holderRules, ttlRules, releaseRules, renewRules, renewAgainRules, atomicRules, staleRules, repeatRules,
		tokenRules, breakRules, clearRules, lossNoticeRules, batchRules, waitingRules, watchRules, shortGrantRules, contextRules, keyRules, inspectRules, lossRules,
		closingRules, wordRules, valueRules, valueSetterRules, processRules, elsewhereRules, historyRules, storeRules, leftoverRules,
	} {
		rs = append(rs, group...)
	}
	return rs
}

// lacks returns why r cannot be tried, "" if it can. A capability or a store that
// is missing without a declared reason is an error.
func (r *Rule) lacks(c *Config, caps map[backend.Capability]bool) (reason string, undeclared string) {
	if why := c.Lacks[r.ID]; why != "" {
		return why, ""
	}
	for _, cp := range r.needs {
		if caps[cp] {
			continue
		}
		if why := c.Lacks[string(cp)]; why != "" {
			return why, ""
		}
		return "", "the backend has no capability " + string(cp) + ", and Config.Lacks gives no reason"
	}
	if r.procs {
		if why := c.Lacks[Processes]; why != "" {
			return why, ""
		}
		if c.URL == "" {
			return "", "Config.URL is empty, so that worker processes have nothing to open, and Config.Lacks gives no reason"
		}
		if len(c.WorkerCommand) == 0 && !workersReady.Load() {
			return "", "worker processes cannot be started: call conformance.Main in TestMain (or WorkerMain at the start of the program)"
		}
	}
	given := true
	switch r.hook {
	case hookSkew:
		given = c.Skew != nil
	case hookPartition:
		given = c.Partition != nil
	case hookRestart:
		given = c.Restart != nil
	case hookWipe:
		given = c.Wipe != nil
	case hookFair:
		if !c.Fair {
			return "order of arrival is not promised (Config.Fair)", ""
		}
	case hookStop:
		if !canStop {
			return "this operating system cannot stop a process", ""
		}
	}
	if !given {
		return "no hook given: Config." + string(r.hook), ""
	}
	return "", ""
}
