# What is done often with this tree. Everything else is the go command's.

MODULES := $(shell sed -n 's/^\t\(\..*\)$$/\1/p' go.work)

.PHONY: test race check portable bench soak simulate torture build install package image model nfs nfs-long bench-nfs help

PREFIX ?= /usr/local

help:
	@echo 'make test      install what the tests need, run every module'"'"'s tests, show the rules kept'
	@echo 'make race      the same under the race detector (needs a C compiler)'
	@echo 'make check     formatting, vet, staticcheck, tidy modules'
	@echo 'make portable  check the types of everything for linux, darwin, freebsd and windows'
	@echo 'make build     bin/hasp with its part for etcd, bin/hasp-etcd'
	@echo 'make install   both into $$(DESTDIR)$$(PREFIX)/bin; PREFIX is /usr/local'
	@echo 'make package   both in one archive in dist/, for SYSTEMS="os/arch …", SYSTEMS=all or this one'
	@echo 'make image     both in a Docker image, hasp'
	@echo 'make bench     measure beside the alternatives; writes docs/benchmarks.md'
	@echo 'make soak      contend with EfsLock-like processes, HASP_SOAK (3m) for each mix of them'
	@echo 'make simulate  other histories of efs in memory, HASP_SIM (4m) for each kind, from the seed HASP_SIM_FROM on'
	@echo 'make torture   contend while processes and servers are killed, HASP_TORTURE (10m) on each store; writes docs/reliability.md'
	@echo 'make model     check the models of efs and migrate with spin, and that wrong variants are refuted'
	@echo 'make nfs       tests on a real NFS server and clients in user-mode kernels (root)'
	@echo 'make nfs-long  these in full, and faults of all kinds for HASP_NFS_LONG (40m); writes docs/reliability.md (root)'
	@echo 'make bench-nfs counts and times requests there, beside a reference build (root)'

test:
	@scripts/test

race:
	@scripts/test -race

soak:
	@scripts/test-needs
	HASP_SOAK=$${HASP_SOAK:-3m} go test -count=1 -timeout 2h -v -run 'Soak' ./efs

simulate:
	go test -count=1 -timeout 12h -v -run 'TestSimulation$$' ./efs -sim $${HASP_SIM:-4m} -simfrom $${HASP_SIM_FROM:-$$(date +%s)}

torture:
	@scripts/test-needs
	HASP_TORTURE=$${HASP_TORTURE:-10m} HASP_TORTURE_REPORT=$(CURDIR)/docs/reliability.md go test -count=1 -timeout 3h -v -run 'TestTorture' ./realtest/torture

check:
	@scripts/check

portable:
	@scripts/portable

bench:
	@scripts/test-needs
	@scripts/bench

# One command, so that both are of the same build: hasp hands over to no other.
build:
	CGO_ENABLED=0 go build -o bin/ ./cmd/hasp ./cmd/hasp/hasp-etcd

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 755 bin/hasp-etcd bin/hasp '$(DESTDIR)$(PREFIX)/bin'

package:
	@scripts/package $(SYSTEMS)

image:
	@scripts/image

model:
	@scripts/test-needs
	@efs/model/check
	@migrate/model/check

nfs:
	@scripts/nfs-needs
	HASP_NFS=1 go test -count=1 -timeout 15m -parallel 8 -v ./realtest/nfslab

nfs-long:
	@scripts/nfs-needs
	HASP_NFS=1 HASP_NFS_LONG=$${HASP_NFS_LONG:-40m} HASP_NFS_REPORT=$(CURDIR)/docs/reliability.md go test -count=1 -timeout 4h -v ./realtest/nfslab

bench-nfs:
	@scripts/nfs-needs
	@scripts/bench-nfs
