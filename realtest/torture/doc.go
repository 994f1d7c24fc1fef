// Package torture lets operating-system processes contend for locks while they are
// killed and stopped, their servers are killed and stopped, their connections are cut,
// held back and delayed, slots of a cluster move, and sentinels make a replica that lags
// the primary, while the former one is dead, stopped or cut off, and has a witness
// outside say whether two were ever in at once.
//
// The faults are chosen by a seed: the same seed makes the same choices, for the same
// times after the beginning. What the processes are doing at these times, and so who
// holds the key whose holder is to be killed, is not repeatable.
package torture
