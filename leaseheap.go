package hasp

import "time"

// leaseHeap orders leases by when they have to be looked at: a heap in which each
// node has four children, with the times beside the leases. With container/heap,
// whose comparisons each go to a lease's own memory, the heartbeats of 100,000
// leases in memlock cost a fifth more.
type leaseHeap []dueLease

type dueLease struct {
	at time.Time
	le *Lease
}

const heapArity = 4

// first returns the lease that is due first; there has to be one.
func (p leaseHeap) first() dueLease { return p[0] }

// set puts le in, or moves it, so that it is due at at.
func (p *leaseHeap) set(le *Lease, at time.Time) {
	i := le.beat.index - 1
	if i < 0 {
		i = len(*p)
		*p = append(*p, dueLease{})
	}
	(*p)[i] = dueLease{at, le}
	p.fix(i)
}

// remove takes le out, if it is in.
func (p *leaseHeap) remove(le *Lease) {
	i := le.beat.index - 1
	if i < 0 {
		return
	}
	le.beat.index = 0
	last := len(*p) - 1
	moved := (*p)[last]
	(*p)[last] = dueLease{}
	*p = (*p)[:last]
	if i < last {
		(*p)[i] = moved
		p.fix(i)
	}
}

// fix moves what is at i to where it belongs.
func (p leaseHeap) fix(i int) {
	x := p[i]
	for i > 0 {
		parent := (i - 1) / heapArity
		if !x.at.Before(p[parent].at) {
			break
		}
		p.put(i, p[parent])
		i = parent
	}
	for {
		least := heapArity*i + 1
		if least >= len(p) {
			break
		}
		for c := least + 1; c < min(heapArity*i+1+heapArity, len(p)); c++ {
			if p[c].at.Before(p[least].at) {
				least = c
			}
		}
		if !p[least].at.Before(x.at) {
			break
		}
		p.put(i, p[least])
		i = least
	}
	p.put(i, x)
}

func (p leaseHeap) put(i int, x dueLease) {
	p[i] = x
	x.le.beat.index = i + 1
}
