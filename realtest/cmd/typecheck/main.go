// Command typecheck checks the types of packages, with their tests, as another system's
// compiler would, and compiles nothing.
//
//	go run ./realtest/cmd/typecheck OS PACKAGE…
//
// What depends on the system is which files belong to a package, and what the packages that
// it imports have there. A compiler tells of both by types, and takes minutes for each system,
// since it compiles all that is imported. Of that only the declarations are read here.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "typecheck: usage: typecheck OS PACKAGE…")
		os.Exit(64)
	}
	n, err := check(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
		os.Exit(1)
	}
	fmt.Printf("typecheck: %s: %d packages\n", os.Args[1], n)
}

// check returns how many packages were checked: those whose files are below this folder.
func check(system string, patterns []string) (int, error) {
	here, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	isOurs := func(file string) bool { return strings.HasPrefix(file, here+string(filepath.Separator)) }
	top, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps |
			packages.NeedTypes | packages.NeedSyntax,
		Env:   append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0"),
		Tests: true,
		ParseFile: func(fset *token.FileSet, name string, src []byte) (*ast.File, error) {
			f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
			if f != nil && !isOurs(name) {
				declarations(f)
			}
			return f, err
		},
	}, patterns...)
	if err != nil {
		return 0, err
	}
	n := 0
	var bad []string
	packages.Visit(top, nil, func(p *packages.Package) {
		// One without files says why; the go command's own main packages of tests are in its cache.
		if len(p.GoFiles) > 0 && !isOurs(p.GoFiles[0]) {
			return
		}
		n += min(1, len(p.GoFiles))
		for _, e := range p.Errors {
			bad = append(bad, e.Error())
		}
	})
	switch {
	case len(bad) > 0:
		slices.Sort(bad)
		return n, fmt.Errorf("for %s:\n%s", system, strings.Join(slices.Compact(bad), "\n"))
	case n == 0:
		return n, fmt.Errorf("no package of %q is in this folder", patterns)
	}
	return n, nil
}

// declarations drops what functions do.
func declarations(f *ast.File) {
	for _, d := range f.Decls {
		if d, ok := d.(*ast.FuncDecl); ok {
			d.Body = nil
		}
	}
}
