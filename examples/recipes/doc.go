// Package recipes is what docs/recipes.md shows: each recipe is a function, and its
// test runs it.
package recipes
