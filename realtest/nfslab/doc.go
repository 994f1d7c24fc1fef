// Package nfslab starts a real NFSv4 server and real Linux clients on one
// machine, for tests of locks on hosts that fail.
//
// Each host is a user-mode kernel: it has caches, a clock, an NFS client or server
// and a network link of its own. A host can be crashed, stalled, cut off the
// network, booted again, and its clock can be set. All hosts share the machine's
// files read and write, so a program that was built here can be run there; the
// export is mounted at [Lab.Mount].
//
// The hosts are in a network namespace of their own, so labs do not clash with
// each other or with the machine's network. When the process that started a lab
// ends, however it ends, its hosts and its network are gone; its temporary folder,
// hasp-nfslab-*, is left if it was killed.
//
// It needs Linux, root, and what scripts/nfs-needs installs.
package nfslab
