package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// migrationJSON is how far a migration is.
type migrationJSON struct {
	Name       string               `json:"name"`
	Stores     []migrationStoreJSON `json:"stores"`
	Consistent bool                 `json:"consistent"`
	Problem    string               `json:"problem"` // if it is not
	Advance    nextJSON             `json:"advance"`
	Back       nextJSON             `json:"back"`
	Seen       []seenJSON           `json:"seen"`
}

type migrationStoreJSON struct {
	Side          string        `json:"side"`
	Name          string        `json:"name"`
	Stage         string        `json:"stage"` // "" without a record
	ID            string        `json:"id"`
	Floor         uint64        `json:"floor"`
	MaxTTLSeconds float64       `json:"max_ttl_seconds"`
	Complete      bool          `json:"complete"`
	Sealed        bool          `json:"sealed"`
	By            string        `json:"by"`
	At            string        `json:"at"`
	Error         string        `json:"error"`
	Holders       []holdingJSON `json:"holders"`
}

type holdingJSON struct {
	lockJSON
	Phase string `json:"phase"` // "" of one that does not look at the record
}

type nextJSON struct {
	From string `json:"from"`
	To   string `json:"to"`
	Safe bool   `json:"safe"`
	Why  string `json:"why"` // not
}

type seenJSON struct {
	Phase string `json:"phase"`
	holderJSON
	At string `json:"at"`
}

func (a *app) migrateStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status [flags] [URL]",
		Short: "Tell how far a migration is, and whether the next step is safe",
		Long: `Tell what each store's record says, who holds locks in each of them and in which phase, which
hosts were last seen in which phase and when (by their own clocks), and whether the next step in
each direction would be taken, or why not. It changes nothing. That a host is not listed says
nothing: it may have been away, and only the last 64 are kept.

Exit status: 0; 1 if the two records do not belong together, or one is missing; 69 if a store
does not answer.`,
		Example: `  hasp migrate status 'migrate:?name=sweeps&old=efs%3A%2F%2F%2Fmnt%2Fefs%2Fsweeps&new=redis%3A%2F%2Fcache'
  hasp migrate status -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.openMigration(cmd.Context(), "status", args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), migrateTimeout)
			defer cancel()
			st, err := m.Status(ctx)
			if err = closing(m, err); err != nil {
				return fail(err)
			}
			if a.json() {
				err = writeJSON(a.stdout, migrationOf(st))
			} else {
				err = written(writeAll(a.stdout, migrationText(st)))
			}
			for _, s := range st.Stores {
				if err == nil && s.Err != nil {
					return fail(fmt.Errorf("migrate status: %s store: %w", s.Side, s.Err))
				}
			}
			if err == nil && st.Consistent != nil {
				return &exitError{code: exitFound}
			}
			return err
		},
	}
}

func migrationOf(st migrate.Status) migrationJSON {
	out := migrationJSON{Name: st.Name, Consistent: st.Consistent == nil, Advance: nextOf(st.Advance), Back: nextOf(st.Back), Seen: []seenJSON{}}
	if st.Consistent != nil {
		out.Problem = backend.Text(st.Consistent)
	}
	for _, s := range st.Stores {
		j := migrationStoreJSON{Side: string(s.Side), Name: s.Name, Holders: []holdingJSON{}}
		if s.Err != nil {
			j.Error = backend.Text(s.Err)
		}
		if r := s.Record; s.HasRecord {
			j.Stage, j.ID, j.Floor, j.MaxTTLSeconds, j.Complete = string(r.Stage), r.ID, r.Floor, seconds(r.MaxTTL), r.Complete
			j.Sealed = r.Sealed
			j.By, j.At = r.By, r.At.Format(time.RFC3339)
		}
		for _, h := range s.Holders {
			j.Holders = append(j.Holders, holdingJSON{lockOf(h.Record.Key, h.Record), string(h.Phase)})
		}
		out.Stores = append(out.Stores, j)
	}
	for _, s := range st.Seen {
		out.Seen = append(out.Seen, seenJSON{string(s.Phase), holderJSON{s.Owner, s.Host, s.PID}, s.At.Format(time.RFC3339)})
	}
	return out
}

func nextOf(n migrate.Next) nextJSON {
	out := nextJSON{From: string(n.From), To: string(n.To), Safe: n.Err == nil}
	if n.Err != nil {
		out.Why = backend.Text(n.Err)
	}
	return out
}

func migrationText(st migrate.Status) []byte {
	var b bytes.Buffer
	show := func(s string) string { return backend.Printable(s) }
	fmt.Fprintf(&b, "migration %s\n\n", show(st.Name))
	table(&b, "STORE\tRECORD\tBY\tAT\tNAME", func(w io.Writer) {
		for _, s := range st.Stores {
			stage, by, at := "none", "-", "-"
			switch {
			case s.Err != nil:
				stage = "unknown"
			case s.HasRecord:
				stage, by, at = string(s.Record.Stage), s.Record.By, s.Record.At.Format(time.RFC3339)
				if s.Record.Complete {
					stage += " (settled)"
				}
				if s.Record.Sealed {
					stage += " (sealed)"
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Side, stage, show(by), at, show(s.Name))
		}
	})
	for _, s := range st.Stores {
		if s.Err != nil {
			fmt.Fprintf(&b, "\nthe %s store cannot be asked: %s\n", s.Side, backend.Text(s.Err))
		}
		if len(s.Holders) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\nheld in the %s store\n", s.Side)
		table(&b, "KEY\tSTATE\tPHASE\tHOLDER\tHELD FOR", func(w io.Writer) {
			for _, h := range s.Holders {
				phase := string(h.Phase)
				if phase == "" {
					phase = "none"
				}
				holder, since := h.Record.Holder.String(), backend.Round(h.Record.HeldFor).String()
				if h.Record.State == backend.Sealed {
					phase, holder, since = "-", "-", "-"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", show(h.Record.Key), h.Record.State, phase, holder, since)
			}
		})
	}
	if len(st.Seen) > 0 {
		b.WriteString("\nlast seen\n")
		table(&b, "PHASE\tAT (its own clock)\tWHO", func(w io.Writer) {
			for _, s := range st.Seen {
				fmt.Fprintf(w, "%s\t%s\t%s\n", s.Phase, s.At.Format(time.RFC3339), backend.Holder{Owner: s.Owner, Host: s.Host, PID: s.PID})
			}
		})
	}
	b.WriteString("\n")
	if st.Consistent != nil {
		fmt.Fprintf(&b, "%s\n", backend.Text(st.Consistent))
		return b.Bytes()
	}
	for _, n := range []struct {
		op   string
		next migrate.Next
	}{{"advance", st.Advance}, {"back", st.Back}} {
		switch {
		case n.next.Err != nil:
			fmt.Fprintf(&b, "%s to %s: not now: %s\n", n.op, n.next.To, backend.Text(n.next.Err))
		case n.next.From == n.next.To:
			fmt.Fprintf(&b, "%s: stage %s is the last in this direction\n", n.op, n.next.To)
		default:
			fmt.Fprintf(&b, "%s to %s: safe\n", n.op, n.next.To)
		}
	}
	return b.Bytes()
}

// table writes rows in columns under headings.
func table(b *bytes.Buffer, headings string, rows func(io.Writer)) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, headings)
	rows(w)
	w.Flush() // into memory
}
