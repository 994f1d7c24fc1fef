//go:build unix

package efs

import (
	"context"
	"slices"
	"syscall"
	"time"
)

// refusalsOf are the definite errors of a kind of request: it is not carried out.
var refusalsOf = map[string][]syscall.Errno{
	"create": {syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EROFS},
	"write":  {syscall.ENOSPC, syscall.EDQUOT},
	"touch":  {syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EROFS},
	"mkdir":  {syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EROFS, syscall.EMLINK},
	"link":   {syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EROFS, syscall.EMLINK},
	"rename": {syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EROFS, syscall.EMLINK},
	"remove": {syscall.EACCES, syscall.EROFS},
	"rmdir":  {syscall.EACCES, syscall.EROFS},
	"open":   {syscall.EACCES},
	"stat":   {syscall.EACCES},
	"read":   {syscall.EACCES},
	"sync":   {syscall.EIO},
}

// refuse answers a request with a definite error, if it is its turn.
func (w *world) refuse(p *proc, s *slot) bool {
	r := s.req
	all := refusalsOf[r.Op]
	if len(all) == 0 {
		return false
	}
	if time.Now().Before(w.refusing) { // a full disk, a server that is read-only, a ticket that has run out
		if slices.Contains(all, w.refusal) {
			w.tell(p.name, r, "is refused for a while", w.refusal)
			w.answer(p, w.refusal)
			return true
		}
		return false
	}
	if w.rng.IntN(300) == 0 {
		w.refusing, w.refusal = time.Now().Add(w.pause()), all[w.rng.IntN(len(all))]
		w.note("%v for %v", w.refusal, time.Until(w.refusing))
	}
	if w.rng.IntN(1000) >= 10+w.faults/2 && (!w.focus(r) || w.rng.IntN(8) > 0) {
		return false
	}
	err := all[w.rng.IntN(len(all))]
	w.tell(p.name, r, "is refused", err)
	w.answer(p, err)
	return true
}

// context is that of a call: it may end in the middle, as the engine's does.
func (p *proc) context() (context.Context, context.CancelFunc) {
	if !p.w.refusals || p.rng.IntN(3) > 0 {
		return ctxBG, func() {}
	}
	return context.WithTimeout(ctxBG, p.upTo(p.w.ttl/2))
}
