package migrate_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is this package with a defect, and the test that has to find it.
type mutant struct {
	defect string
	file   string
	edits  []string // what is there, and what the mutant has instead, and so on
	test   string
}

var mutants = []mutant{
	{"the record is read before acquiring", "acquire.go", []string{
		"\t\th, err := b.take(ctx, key, c)\n", "\t\tpre := b.admitted(ctx, c, 1<<63)\n\t\th, err := b.take(ctx, key, c)\n",
		"\t\t\terr = b.admitted(ctx, c, token)\n", "\t\t\terr = pre\n"}, "TestRecordIsReadAfterAcquiring"},
	{"no listing", "step.go", []string{"	if !conditional(from, to) {\n", "	if true {\n"}, "TestStepIsRefusedWhileSomebodyHolds"},
	{"a step that was taken is taken again", "step.go", []string{"	case whole && from == o.To:\n		return true, nil\n", "	case whole && from == o.To:\n		return false, nil\n"}, "TestStepIsTakenOnce"},
	{"the listing is made before both is written", "step.go", []string{
		"	if !conditional(from, to) {\n", "	if to != StageBoth {\n",
		"	if to == StageOldBoth {\n", "	if from == StageBothNew {\n",
		"			if conditional(from, to) {\n", "			if to == StageBoth || conditional(from, to) {\n"}, "TestListingComesAfterWriting"},
	{"a missing record is a permission", "acquire.go", []string{
		"	case !r.exists():\n", "	case !r.exists():\n		return nil\n	case false:\n",
		"		if c.TTL > recs[i].MaxTTL {\n", "		if r := recs[i]; r.exists() && c.TTL > r.MaxTTL {\n"}, "TestWipedStore"},
	{"the end of a watch frees what its claim has got", "claims.go", []string{
		"		w.finish()\n", "		w.spend()\n"}, "TestWatchThatWasEndedKeepsTheGrant"},
	{"a TTL over the longest is let in", "acquire.go", []string{
		"		if c.TTL > recs[i].MaxTTL {\n", "		if false {\n"}, "TestLongTTL"},
	{"a step asks the record of the store only that is not listed", "step.go", []string{
		"	lo, hi := recs[0].Stage.number(), recs[1].Stage.number()\n",
		"	lo := recs[1].Stage.number()\n	if dir < 0 {\n		lo = recs[0].Stage.number()\n	}\n	hi := lo\n"}, "TestHalfAStep"},
	{"the new store's record is written first", "session.go", []string{
		"	for i := range s.recs {\n", "	for i := range s.recs {\n		i = 1 - i\n"}, "TestOrderOfWrites"},
	{"no second look after the listing", "step.go", []string{
		"				if err := s.unchanged(ctx); err != nil {\n", "				if err := error(nil); err != nil {\n"}, "TestRecordsAreReadAgainAfterTheListing"},
	{"a repair does not wait", "repair.go", []string{
		"s.outlast(ctx, other.MaxTTL+other.MaxTTL/10)", "s.outlast(ctx, 0)"}, "TestRepair"},
	{"loss in the old store is no loss", "renew.go", []string{
		"		case err == nil:\n			h.parts[i].g = r.Grant\n", "		case err == nil || i == 0 && errors.Is(err, backend.ErrLost):\n			h.parts[i].g = r.Grant\n"}, "TestLossOfEither"},
	{"loss in the new store is no loss", "renew.go", []string{
		"		case err == nil:\n			h.parts[i].g = r.Grant\n", "		case err == nil || i == 1 && errors.Is(err, backend.ErrLost):\n			h.parts[i].g = r.Grant\n"}, "TestLossOfEither"},
	{"a record is written although its lock was lost", "session.go", []string{
		"		case errors.Is(err, backend.ErrLost):\n			return &RefusedError{Op: s.op, Why: fmt.Sprintf(\"the hold on the %s store's record was lost before",
		"		case errors.Is(err, backend.ErrLost) && try < 3:\n			g, err = st.b.Acquire(ctx, RecordKey, backend.Claim{ID: s.grants[i].ID, TTL: stepTTL})\n			if err == nil {\n				s.grants[i] = g\n				v, _ = r.encode(g.Token, s.seq[i])\n			}\n			continue\n" +
			"		case errors.Is(err, backend.ErrLost):\n			return &RefusedError{Op: s.op, Why: fmt.Sprintf(\"the hold on the %s store's record was lost before"}, "TestOvertakenOperator"},
	{"tokens without the record's floor", "acquire.go", []string{
		"	if token <= floor {\n", "	if false {\n",
		"	floor := max(c.TokenFloor, b.floor.Load())\n", "	floor := c.TokenFloor\n"}, "TestTokensRise"},
	{"the new store's token without the old one's as its floor", "acquire.go", []string{
		"			ic.TokenFloor = max(floor, h.parts[0].g.Token-1)\n", "			ic.TokenFloor = floor\n",
		"		token, err := b.settleTokens(ctx, c, h)\n", "		_, err = b.settleTokens(ctx, c, h)\n		token := h.parts[len(h.parts)-1].g.Token\n"}, "TestTokensRise"},
	{"no raise in the old store", "token.go", []string{
		"		if p.g.Token == token || isSealed(p.g) {\n", "		if true {\n"}, "TestOldAfterOneOfBoth"},
	{"a raise without the renewal after it", "token.go", []string{
		"		g, err := s.b.Renew(ctx, p.g)\n", "		g, err := p.g, error(nil)\n"}, "TestRaiseThatComesTooLate"},
	{"values are copied only where there is none", "settle.go", []string{
		"		if kv.Value.Compare(have) <= 0 {\n", "		if have.Token != 0 {\n"}, "TestSettledStoreIsEnough"},
	{"values are read from one's own store", "values.go", []string{
		"	if vs[0].Compare(vs[1]) > 0 {\n", "	if len(b.legs) == 1 {\n		return vs[index(b.legs[0].side)], nil\n	}\n	if vs[0].Compare(vs[1]) > 0 {\n"}, "TestValuesThroughEveryPhase"},
	{"a value is set in the old store first at every stage", "values.go", []string{
		"		if rec.Stage.Admits(PhaseNew) {\n", "		if rec.Stage == StageFinished {\n"}, "TestLateSetter"},
	{"settled before phase both is over", "settle.go", []string{
		"			if err := b.nobodyLeft(ctx, op, b.sides[stay], b.sides[go_]); err != nil {\n", "			if err := error(nil); err != nil {\n"}, "TestSettlingWaitsForBoth"},
	{"the first store is not given back", "acquire.go", []string{
		"	return b.givenBack(ctx, c, h, err)\n}\n\n// blocker", "	return err\n}\n\n// blocker"}, "TestFirstIsGivenBack"},
	{"a claim comes again under an ID that was given back", "claims.go", []string{
		"	if gen == 0 {\n", "	if gen >= 0 {\n"}, "TestFirstIsGivenBack"},
	{"half a step is taken for a whole one", "step.go", []string{
		"	case at(lo) == StageBoth:", "	case false:",
		"			if conditional(from, to) {\n", "			if conditional(from, to) && s.recs[0].Stage == s.recs[1].Stage {\n"}, "TestHalfAStep"},
}

// Each mutant is compiled in place of the file that it changes, and the test that is
// named for it has to fail: by its own words, and not because the mutant does not build.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package once for each mutant")
	}
	limit := make(chan struct{}, 2)
	for _, m := range mutants {
		t.Run(m.defect, func(t *testing.T) {
			t.Parallel()
			limit <- struct{}{}
			defer func() { <-limit }()
			path, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			src := string(text)
			for i := 0; i < len(m.edits); i += 2 {
				if strings.Count(src, m.edits[i]) != 1 {
					t.Fatalf("%s has %q %d times and not once", m.file, m.edits[i], strings.Count(src, m.edits[i]))
				}
				src = strings.Replace(src, m.edits[i], m.edits[i+1], 1)
			}
			dir := t.TempDir()
			changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
			data, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
			if err == nil {
				err = os.WriteFile(changed, []byte(src), 0o600)
			}
			if err == nil {
				err = os.WriteFile(overlay, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("go", "test", "-vet=off", "-count=1", "-timeout=60s", "-overlay="+overlay, "-run=^"+m.test+"$", ".")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+m.test) {
				t.Fatalf("%s does not catch it (%v):\n%.2000s", m.test, err, out)
			}
			t.Logf("caught by %s", m.test)
		})
	}
}
