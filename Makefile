# What is done often with this tree. Everything else is the go command's.

MODULES := $(shell sed -n 's/^\t\(\..*\)$$/\1/p' go.work)

.PHONY: test race check portable bench soak help

help:
	@echo 'make test      install what the tests need, run every module'"'"'s tests, show the rules kept'
	@echo 'make race      the same under the race detector (needs a C compiler)'
	@echo 'make check     formatting, vet, staticcheck, tidy modules'
	@echo 'make portable  build and vet for linux, darwin, freebsd and windows'
	@echo 'make bench     measure beside the alternatives; writes docs/benchmarks.md'
	@echo 'make soak      the contention tests for a minute each'

test:
	@scripts/test

race:
	@scripts/test -race

soak:
	@scripts/test-needs
	HASP_SOAK=60s go test -count=1 -timeout 15m -v -run 'ContendWithTheLockFileProtocol' ./efs

check:
	@scripts/check

portable:
	@scripts/portable

bench:
	@scripts/test-needs
	@scripts/bench
