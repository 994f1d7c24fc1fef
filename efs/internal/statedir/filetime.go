//go:build unix

package statedir

import (
	"slices"
	"time"
)

// A file of the other protocol gives no sign of life but its time. It, too, is believed
// dead by the clock only as long as the clocks agree, or when it has stood still.

// fileSighting is when a file, as it was found, was first seen.
type fileSighting struct {
	signature   string
	changed     time.Time // as the server had it at the first sighting
	latest      time.Time // the same, at the last sighting where it belongs
	first, last time.Time
}

// maxFiles is how many of them are remembered: there can be one at the path, and others
// that were moved aside, and who looks at them in turn must not forget each for the next.
const maxFiles = 8

// sighted returns what is known of a file, nil if it was not seen as it is.
func (d *Dir) sighted(signature string) *fileSighting {
	for i := range d.files {
		if d.files[i].signature == signature {
			return &d.files[i]
		}
	}
	return nil
}

// Stood returns for how long something has been seen as it is.
func (d *Dir) Stood(signature string) time.Duration {
	return time.Since(d.sight(signature, time.Time{}, true).first)
}

// sight notes that something is seen as it is, and was changed then. Where it belongs, what
// was changed since the last time is another that looks the same: numbers of files are used again.
func (d *Dir) sight(signature string, changed time.Time, moved bool) *fileSighting {
	now := time.Now()
	f := d.sighted(signature)
	if f == nil {
		if len(d.files) == maxFiles {
			oldest := 0
			for i := range d.files {
				if d.files[i].last.Before(d.files[oldest].last) {
					oldest = i
				}
			}
			d.files = slices.Delete(d.files, oldest, oldest+1)
		}
		d.files = append(d.files, fileSighting{signature: signature, changed: changed, first: now})
		f = &d.files[len(d.files)-1]
	}
	if !moved && !f.latest.IsZero() && changed.After(f.latest) {
		*f = fileSighting{signature: signature, first: now}
	}
	if f.changed.IsZero() {
		f.changed = changed
	}
	if !moved {
		f.latest = changed
	}
	f.last = now
	return f
}

// FileAge returns for how long a file has not been changed, and how much of ttl is left.
// It may be changed by being moved aside: of one that was moved what was said at the first sighting counts.
func (d *Dir) FileAge(signature string, changed time.Time, moved bool, ttl time.Duration) (age, left time.Duration, err error) {
	f := d.sight(signature, changed, moved)
	stood, changed := time.Since(f.first), f.changed
	now, err := d.Now()
	if err != nil {
		return 0, 0, err
	}
	age = max(0, now.Sub(changed), stood)
	return age, add(ttl, d.clock.slack(ttl)) - age, nil
}

// DoubtFile returns why a file that looks stale may not be, and for how long that is to
// be waited for; "" if it is.
func (d *Dir) DoubtFile(signature string, ttl time.Duration) (doubt string, left time.Duration) {
	if f := d.sighted(signature); f != nil {
		if left = add(ttl, d.clock.slack(ttl)) - time.Since(f.first); left <= 0 {
			return "", 0
		}
	} else {
		left = ttl
	}
	_, doubt = d.believe(ttl)
	return doubt, left
}

// ChangedWithin tells whether something has changed in the lock's directory during the
// last while, by the server's clock.
func (d *Dir) ChangedWithin(while time.Duration) (bool, error) {
	i, err := d.fs.Stat(d.above, true)
	if err != nil {
		return false, err
	}
	now, err := d.Now()
	if err != nil {
		return false, err
	}
	return now.Sub(i.Mtime) < while+d.clock.slack(while), nil
}

// WasHeld tells whether the lock was held when its state was read last.
func (d *Dir) WasHeld() bool { return d.listed.state == Held }
