package etcdlock

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// rooms are the types that know etcd, each with a mutex of its own where it has a
// state, and which of the types below each may name: in its methods and its fields.
var rooms = map[string][]string{
	"store":           {"login", "server"},
	"login":           nil,
	"server":          nil,
	"tokens":          {"store", "names", "base", "bases"},
	"keepalives":      {"store", "login", "keepaliveStream"},
	"keepaliveStream": nil,
	"released":        {"ident"},
	"places":          nil,
}

// parts are all types that have an arrow to or from a room.
var parts = []string{
	"Backend", "store", "login", "server", "tokens", "keepalives", "keepaliveStream", "released", "places",
	"names", "base", "bases", "ident", "entry", "lease", "slot", "waiter", "lossWatch",
}

// Arrows go one way: a room can reach another only through its type, so it must not
// name one that is not below it.
func TestArrowsGoOneWay(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	fset := token.NewFileSet()
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(fset, f.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		look := func(room string, n ast.Node) {
			allowed, known := rooms[room]
			if !known || n == nil {
				return
			}
			seen[room] = true
			ast.Inspect(n, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr: // what is selected is a field or a method
					ast.Inspect(n.X, func(x ast.Node) bool {
						check(t, fset, room, allowed, x)
						return true
					})
					return false
				case *ast.KeyValueExpr: // as is what a literal names
					ast.Inspect(n.Value, func(x ast.Node) bool {
						check(t, fset, room, allowed, x)
						return true
					})
					return false
				}
				check(t, fset, room, allowed, n)
				return true
			})
		}
		for _, d := range parsed.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil {
					room := receiver(d.Recv.List[0].Type)
					look(room, d.Type)
					look(room, d.Body)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok {
						if st, ok := ts.Type.(*ast.StructType); ok {
							for _, field := range st.Fields.List {
								look(ts.Name.Name, field.Type)
							}
						}
					}
				}
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("there is no room %s", room)
		}
	}
}

func receiver(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func check(t *testing.T, fset *token.FileSet, room string, allowed []string, n ast.Node) {
	id, ok := n.(*ast.Ident)
	if ok && id.Name != room && slices.Contains(parts, id.Name) && !slices.Contains(allowed, id.Name) {
		t.Errorf("%s: %s knows %s", fset.Position(id.Pos()), room, id.Name)
	}
}
