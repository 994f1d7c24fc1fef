package migrate

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"sync"
	"time"
)

// claims knows of those claims that have given a store's lock back. A claim may come
// again (the engine tries until it gets the lock), and a Release of its former attempt
// may still be under way, in the network or in a client's retries: executed late, it
// would free what the later attempt got, and a process that holds in one store of two
// is not alone. So each attempt after one that was given back goes under another ID in
// that store. The first one has the claim's own.
type claims struct {
	mu   sync.Mutex
	m    map[string]*attempts // by the claim's ID
	live map[string]string    // a store's ID to the claim's, of those that differ and are held
}

type attempts struct {
	gen   [2]int      // how often this claim has given back in each store
	owed  [2][]string // what it was called there when nobody could say that it was given back
	used  time.Time
	watch *watch
	last  Side // where it was refused last
}

// keepClaims is how long something is known of a claim that nobody has asked about: the
// engine forgets claims that were refused without telling.
const keepClaims = time.Hour

// idOf is what a claim is called in a store at its gen-th attempt there.
func idOf(id string, gen int) string {
	if gen == 0 {
		return id
	}
	sum := sha256.Sum256([]byte(id + "/" + strconv.Itoa(gen)))
	return again + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// again begins the IDs of later attempts.
const again = "again-"

func index(s Side) int {
	if s == SideNew {
		return 1
	}
	return 0
}

// id is what the claim is called in a store now.
func (c *claims) id(s Side, id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.m[id]; a != nil {
		return idOf(id, a.gen[index(s)])
	}
	return id
}

// ids lists what the claim may still hold a store's lock as.
func (c *claims) ids(s Side, id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.m[id]
	if a == nil {
		return []string{id}
	}
	return append([]string{idOf(id, a.gen[index(s)])}, a.owed[index(s)]...)
}

// owed lists what has to be given back before the claim can be made again.
func (c *claims) owed(s Side, id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.m[id]; a != nil {
		return slices.Clone(a.owed[index(s)])
	}
	return nil
}

// paid notes that the store has nothing under this ID any more.
func (c *claims) paid(s Side, id, inner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.m[id]; a != nil {
		a.owed[index(s)] = slices.DeleteFunc(a.owed[index(s)], func(x string) bool { return x == inner })
	}
}

// get returns what is known of a claim, made if need be. Called with mu held.
func (c *claims) get(id string) *attempts {
	if c.m == nil {
		c.m, c.live = map[string]*attempts{}, map[string]string{}
	}
	a := c.m[id]
	if a == nil {
		now := time.Now()
		for old, a := range c.m {
			if a.watch == nil && now.Sub(a.used) > keepClaims {
				delete(c.m, old)
			}
		}
		a = &attempts{}
		c.m[id] = a
	}
	a.used = time.Now()
	return a
}

// givingBack notes, before the store is asked, that the next attempt of the claim has to go under another ID there.
// What watches for the claim there may have been used up, and is told to begin anew.
func (c *claims) givingBack(s Side, id string) {
	c.mu.Lock()
	a := c.get(id)
	a.owed[index(s)] = append(a.owed[index(s)], idOf(id, a.gen[index(s)]))
	a.gen[index(s)]++
	w := a.watch
	c.mu.Unlock()
	if w != nil && w.side == s {
		w.spend()
	}
}

// refused notes which store refused the claim, for its waiter to wait there.
//
// A waiter at the other store is told to begin anew here. Left in that store's queue it
// would keep its turn there, and those who hold the lock that it is refused would be refused
// because of that turn, for as long as there are many of both.
func (c *claims) refused(s Side, id string) {
	c.mu.Lock()
	var w *watch
	if s == SideNew || c.m[id] != nil {
		a := c.get(id)
		a.last, w = s, a.watch
	}
	c.mu.Unlock()
	if w != nil && w.side != s {
		w.finish()
	}
}

// refuser is where the claim was refused last, def if that is not known.
func (c *claims) refuser(id string, def Side) Side {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.m[id]; a != nil && a.last != "" {
		return a.last
	}
	return def
}

// granted notes what a claim that is held is called in a store.
func (c *claims) granted(id, inner string) {
	if id == inner {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		c.m, c.live = map[string]*attempts{}, map[string]string{}
	}
	c.live[inner] = id
}

// ended forgets a claim whose grant was released.
func (c *claims) ended(id string, inner ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range inner {
		delete(c.live, x)
	}
	if a := c.m[id]; a != nil && a.watch == nil {
		delete(c.m, id)
	}
}

// outer is the claim that a store's ID belongs to. The first ID of a claim that is held
// under a later one there belongs to nobody: what was given back may be lost.
func (c *claims) outer(s Side, inner string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.live[inner]; ok {
		return id
	}
	if a := c.m[inner]; a != nil && a.gen[index(s)] > 0 {
		return inner + " given back" // no claim is called that
	}
	return inner
}

// watching notes a claim's watch, nil when it has ended.
func (c *claims) watching(id string, w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w != nil {
		c.get(id).watch = w
		return
	}
	a := c.m[id]
	if a == nil {
		return
	}
	a.watch = nil
	if a.gen == [2]int{} {
		delete(c.m, id)
	}
}
