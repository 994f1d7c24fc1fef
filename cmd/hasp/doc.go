/*
Command hasp holds a lock while a command runs, and shows and breaks locks.

	hasp run    [flags] KEY -- COMMAND [ARG…]
	hasp once   [flags] KEY --unless PATH -- COMMAND [ARG…]
	hasp status KEY
	hasp list   [PREFIX]
	hasp break  KEY --token N
	hasp version
	hasp completion bash|zsh|fish|powershell

KEY is the path of a lock file, whose directory is made if it is missing:

	hasp run /mnt/efs/sweeps/foo/lock -- python create_sweep.py

With --on URL, or HASP_URL in the environment, KEY is a key of that store:

	hasp run --on redis://cache:6379 sweeps/foo -- python create_sweep.py

# Flags of all subcommands

	--on URL          the store: efs:///dir, redis://host:port, etcd://host:port
	                  with their options; default HASP_URL, else KEY is a path
	--no-lockfile     on a file system, leave out the lock file that programs of
	                  the old protocol look for; as the URL's lockfile=false
	-o, --output F    text or json

# Flags of run and once

	--timeout D          how long the lock stays valid after hasp's last sign of
	                     life, its TTL; default 300s
	--retry-interval D   wait between attempts; default 5s. A release is noticed
	                     earlier where the store can tell
	--max-retries N      how many such waits; default 60, -1 for no end
	--max-wait D         how long to wait at most. Given without --max-retries it
	                     is the only limit; 0 is one attempt
	--try                one attempt, no waiting
	--owner NAME         what others see as the holder; default $USER, or the
	                     user's name
	--grace D            from SIGTERM to SIGKILL when the command has to be
	                     stopped; default a fifth of --timeout but 10s at most,
	                     and never more than a third of it

once has --unless PATH besides: the command is not run if PATH exists, which is
looked at before KEY is taken and again when it is held. break has --token N:
the token of the holder that is meant, as status shows it; 0 for a lock file of a
program that knows no tokens.

# Exit status

	0        done; for once also: there was nothing to do
	64       the arguments, the key or the URL are wrong
	65       what the store has for KEY is not something hasp wrote
	69       the store does not answer
	70       an error that fits nowhere else
	73       the lock cannot be created: no space, read-only, not a directory
	74       the file system failed
	75       not acquired, or not broken: another holds the lock, and the message
	         says who
	76       the lease was lost, and the command was stopped
	77       no permission
	126      the command was found and cannot be run
	127      the command was not found; nothing was locked
	128 + n  hasp was ended by signal n while it waited
	other    the command's own; 128 + n if signal n ended it

The command's own status may be any of these. With -o json the result says
which it was.

# The command

It has HASP_KEY, HASP_TOKEN (the fencing token, for resources that can refuse an
older one than they have seen) and HASP_HOLDER in its environment, and standard
input, output and error are its own. It runs in a process group of its own. hasp
passes on INT, TERM, HUP, QUIT, USR1, USR2, WINCH, TSTP and CONT to that group.

When hasp cannot renew the lock, the group gets SIGTERM at the lease's deadline
less the grace time, and SIGKILL at the deadline, which is before anyone else can
take the lock over. When the lock was broken or its state deleted, SIGTERM comes
as soon as hasp learns of it and SIGKILL after the grace time, or at the deadline
if that is earlier.

When the command has ended but others of its group have not, such as background
jobs of a shell script, they get SIGTERM, and SIGKILL after the grace time: the
lock is released when the last of them is gone. What has left the group (setsid,
a daemon) is no longer hasp's and runs on without the lock.

If hasp is killed (SIGKILL) the command dies with it, at once on Linux, where the
kernel sees to it. The rest of the group is killed by hasp-guard, a second process
that hasp starts when the command has run for 50 ms; elsewhere than on Linux it is
started at once and kills the command too. It also kills the group at the deadline
if hasp is stopped (SIGSTOP) or starved. What cannot be had: children of the
command survive if hasp is killed in the command's first 50 ms, or together with
its guard; a command that changes its user (sudo) can be ended by root only; and
a process that hangs in a system call on a dead mount cannot be killed by anyone.

On a terminal the command is in the foreground if hasp was started by itself from
an interactive shell; in a pipeline or a script it gets the terminal when it first
reads from it, so that Ctrl-C reaches the whole. Ctrl-Z stops the command and
hasp, which then renews nothing: a command that stays stopped for longer than
--timeout has lost the lock, and is killed.

run and once need process groups: on Windows they are refused.

# While it waits

On a terminal a line on standard error says who holds the lock, for how long, and
how much waiting is left. Elsewhere a line is logged when that holder changes.

# JSON

Durations are in seconds. status prints a lock, and list an array of them:

	{"key":"…","state":"free|held|stale","holder":{"owner":"…","host":"…","pid":1},
	 "token":1,"ttl_seconds":300,"held_seconds":1.5,"remaining_seconds":298.5,"note":""}

holder is null if the lock is free. break prints

	{"key":"…","broken":true,"now":null}

with the lock as now if another holds it. run and once print, on standard error as
its last line since standard output is the command's,

	{"key":"…","ran":true,"exit":0,"token":1,"waited_seconds":0.1,"ran_seconds":2.5,"error":""}

# Backends

This program has those for directories (efs), memory (mem, for trying things out)
and Redis. For a URL of any other scheme it hands over to the program hasp-SCHEME,
beside it or in PATH. hasp-etcd, from the directory of that name, is this program
with etcd's client, which takes so long to initialize that short commands under
a lock file should not pay for it. Package cli makes such a program of any backend.
*/
package main
