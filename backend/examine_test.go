package backend_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hasplock/hasp/backend"
)

type nothing struct{}

func (nothing) Examine(_ context.Context, found backend.Finder) error {
	found.OK("a", "%d", 1)
	found.About("part").Warn("b", "do", "%s", "seen")
	found.Problem("c", "mend", "broken")
	return nil
}

func (nothing) Scratch(context.Context) (backend.Backend, func(context.Context) error, error) {
	return nil, nil, nil
}

func (nothing) Close() error { return nil }

func TestOpenExaminer(t *testing.T) {
	ctx := context.Background()
	none := func(context.Context, *url.URL) (backend.Backend, error) { return nil, errors.New("not to be opened") }
	backend.Register("examined", none)
	backend.Register("unexamined", none)
	backend.RegisterExaminer("examined", func(_ context.Context, u *url.URL) (backend.Examiner, error) {
		if u.Path == "/bad" {
			return nil, errors.New("a bad URL")
		}
		return nothing{}, nil
	})
	x, err := backend.OpenExaminer(ctx, "examined:///good")
	if err != nil {
		t.Fatal(err)
	}
	var got []backend.Finding
	if err := x.Examine(ctx, func(f backend.Finding) { got = append(got, f) }); err != nil {
		t.Fatal(err)
	}
	want := []backend.Finding{
		{ID: "a", Level: backend.LevelOK, Seen: "1"},
		{ID: "b", Level: backend.LevelWarning, Subject: "part", Seen: "seen", Advice: "do"},
		{ID: "c", Level: backend.LevelProblem, Seen: "broken", Advice: "mend"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %+v, want %+v", got, want)
	}
	if _, err := backend.OpenExaminer(ctx, "unexamined://user:tresor@host/"); !errors.Is(err, backend.ErrUnsupported) || strings.Contains(err.Error(), "tresor") {
		t.Errorf("a scheme without an examiner: %v", err)
	}
	for _, bad := range []string{"", "nowhere://x", "examined:///bad", "examined://a b:80/"} {
		if _, err := backend.OpenExaminer(ctx, bad); err == nil || errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for name, register := range map[string]func(){
		"taken": func() {
			backend.RegisterExaminer("examined", func(context.Context, *url.URL) (backend.Examiner, error) { return nothing{}, nil })
		},
		"nil": func() { backend.RegisterExaminer("other", nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			register()
		}()
	}
}
