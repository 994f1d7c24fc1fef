/*
Command hasp holds a lock while a command runs, and shows and breaks locks.

	hasp run    [flags] KEY -- COMMAND [ARG…]
	hasp once   [flags] KEY (--unless PATH | --keep) -- COMMAND [ARG…]
	hasp status [flags] KEY
	hasp list   [flags] [PREFIX]
	hasp break  [flags] KEY --token N
	hasp clear  [flags] [--stale] [PREFIX]
	hasp value  [flags] KEY
	hasp forget [flags] KEY
	hasp raise  [flags] KEY --token N
	hasp migrate status|start|advance|back|seal|unseal|repair|finish [flags] [URL]
	hasp verify [flags] [URL]
	hasp doctor [flags] [URL]
	hasp version
	hasp completion bash|zsh|fish|powershell

KEY is the path of a lock, whose directory is made if it is missing (more than one
level of it is said on standard error: it may be a file system that is not mounted):

	hasp run /mnt/efs/sweeps/foo/lock -- python create_sweep.py

With --on URL, or HASP_URL in the environment, KEY is a key of that store:

	hasp run --on redis://cache:6379 sweeps/foo -- python create_sweep.py

# Flags of all subcommands

	--on URL          the store: efs:///dir, redis://host:port, etcd://host:port
	                  with their options; default HASP_URL, else KEY is a path
	--no-lockfile     on a file system, leave out what keeps programs of the EfsLock
	                  protocol out; as the URL's lockfile=false
	--mounted         refuse a directory that is not on a network file system; as
	                  the URL's mount=required
	--legacy-timeout D
	                  after how long a lock file of the EfsLock protocol is stale,
	                  whatever --timeout is; default 300s
	-o, --output F    text or json

A URL's scheme may be in any case. hasp's own flags go before --: one that is among
the command's arguments instead is warned of, unless it is given before -- too. A
duration has a unit: 300s, 5m, 1h30m.

Nothing that hasp prints has a password of a URL in it, and on Linux it takes them
out of its arguments, which other users can see, when it starts. HASP_URL is the
safer place; the command has it in its environment too.

# Flags of run, once and forget

	--timeout D          how long the lock stays valid after hasp's last sign of
	                     life, its TTL; default 300s
	--retry-interval D   wait between attempts; default 5s. A release is noticed
	                     earlier where the store can tell
	--max-retries N      how many such waits; -1 for no end. By default as many as
	                     outlast a dead holder with the same --timeout: 60, or
	                     more if those are not 10s longer than that; 64 with the
	                     defaults, which is 320s
	--max-wait D         how long to wait at most. Given without --max-retries it
	                     is the only limit; 0 is one attempt
	--try                one attempt, no waiting
	--owner NAME         what others see as the holder; default $USER, or the
	                     user's name
	--grace D            from SIGTERM to SIGKILL when the command has to be
	                     stopped; default a fifth of --timeout but 10s at most,
	                     and never more than a third of it; not of forget

once has --unless PATH besides: the command is not run if PATH exists, which is
looked at before KEY is taken and again when it is held. Or it has --keep, for which
see below. break has --token N:
the token of the holder that is meant, as status shows it; 0 for a lock file of a
program that knows no tokens. status has --exit-code: its status is then 0 if KEY is
free, 75 if it is held, and 1 if it is stale. hasp --version is hasp version.

What list and clear cannot read, one lock or a directory, is an entry in state
unknown, with the reason as its note, and their exit status is then 1.

# Doctor

doctor looks a store over for an operator: how it is set up, what its server says, and how it does what
locks rest on, which it tries for real under names that no lock has. A line is shown for each finding
as soon as it is known: ok, warning (locks exclude, and something is worse than it could be) or
problem (locks do not work there, may be lost, or do not exclude), what was seen, and what to do.
Its exit status is 0 if there is no problem and 1 if there is one, with --strict also if there
is a warning. A store that does not answer is a problem; arguments and URLs that are wrong are 64 as ever.

	--peer PATH   a second mount of the same directory: whether each shows at once
	              what is done through the other, and whether they exclude
	--timeout D   after how long to give up, which is a problem; default 1m
	--strict      exit with 1 if there is a warning

A directory is tried in one of its own in it, hasp-doctor-…, which is removed, also after a signal; SIGKILL
leaves it. In Redis and etcd it is keys with a prefix of their own, below that of the locks. What is
looked at in each store is a table of docs/stores.md.

# Migrate

migrate moves a fleet from one store to another while it works. Its URL, as an argument, with --on or in
HASP_URL, names both, each escaped as a value:

	migrate:?name=sweeps&phase=both&old=efs%3A%2F%2F%2Fmnt%2Fefs%2Fsweeps&new=redis%3A%2F%2Fcache%3A6379

The same URL, with the phase of the process in it (old, both or new), is what run, once and the other
subcommands take locks in. The actions need no phase:

	status    the records, who holds locks in which phase, who was last seen, and
	          whether the next step is safe, or why not
	start     begin, at stage old; --max-ttl D is the longest --timeout that may be
	          used meanwhile (1h)
	advance   the next step towards new; --legacy-gone says that no program of the
	          EfsLock protocol uses the old store any more; with --to STAGE it does
	          nothing at that stage already, and is refused where it leads elsewhere
	back      the next step towards old; --to as above
	seal      close the old store's locks to programs that do not look at the record,
	          those of the EfsLock protocol and hasp with a path
	unseal    let them in again, on the way back
	repair    write the record of a store that was wiped, from the other one's
	finish    end it, when it is settled

	--wait         wait until it is safe, and until it is settled
	--max-wait D   the same, for so long
	--dry-run      look, and change nothing
	--by NAME      who does it, for the record; default the user's name

docs/migrate.md is the guide: each step there and back, what to watch, and what each message means.
Each can be repeated after an interruption. Their exit status is 75 if they were refused and it
passes by itself, 78 if somebody has to do something, which the message says.

# Exit status

	0        done; for once also: there was nothing to do
	64       the arguments, the key or the URL are wrong
	65       what the store has for KEY is not something hasp wrote; for once --keep
	         also: the command has written more than can be kept
	69       the store does not answer
	70       an error that fits nowhere else
	73       the lock cannot be created: no space, read-only, not a directory
	74       the file system failed
	75       not acquired, or not broken: another holds the lock, and the message
	         says who
	76       the lease was lost, and the command was stopped
	77       no permission
	78       the lock has moved to another store; or the migration does not admit the
	         phase that is configured, or refuses a step until somebody has done something
	126      the command was found and cannot be run
	127      the command was not found; nothing was locked
	128 + n  hasp was ended by signal n while it opened the store, or waited
	other    the command's own; 128 + n if signal n ended it

value has 1 if there is no value. The command's own status may be any of these. With -o json the result says
which it was.

# The command

It has HASP_KEY, HASP_TOKEN (the fencing token, for resources that can refuse an
older one than they have seen) and HASP_HOLDER in its environment, and standard
input, output and error are its own, except for once --keep. It runs in a process group of its own. hasp
passes on INT, TERM, HUP, QUIT, USR1, USR2, WINCH, TSTP and CONT to that group.

When hasp cannot renew the lock, the group gets SIGTERM at the lease's deadline
less the grace time, and SIGKILL at the deadline, which is before anyone else can
take the lock over. When the lock was broken or its state deleted, SIGTERM comes
as soon as hasp learns of it and SIGKILL after the grace time, or at the deadline
if that is earlier.

When the command has ended but others of its group have not, such as background
jobs of a shell script, they get SIGTERM, and SIGKILL after the grace time: the
lock is released when the last of them is gone; zombies do not count (on Linux,
where /proc shows all processes). What has left the group (setsid, a daemon) is
no longer hasp's and runs on without the lock. Orphans of the command's are
children of hasp on Linux, which collects them when they end.

As long as the lock is held hasp waits for whatever it cannot kill. Once the lock is lost
it waits for 5 s after SIGKILL, and then exits with 76 and says that something still runs.

If hasp is killed (SIGKILL) the command dies with it, at once on Linux, where the
kernel sees to it. The rest of the group is killed by hasp-guard, a second process
that hasp starts when the command has run for 50 ms; elsewhere than on Linux it is
started at once and kills the command too. When the last of the group is gone the
guard releases the lock, so that others need not wait for its TTL: it opens the
same URL and releases by the claim, which frees nothing that is another's by then.
It also kills the group at the deadline if hasp is stopped (SIGSTOP) or starved.
What cannot be had: children of the command survive, and the lock is left to its
TTL, if hasp is killed in the command's first 50 ms, or together with its guard (as
everything is when hasp is a container's process 1); a command whose hasp is stopped
in its first 50 ms runs on past the deadline, until hasp goes on; a command that changes its user
(sudo) can be ended by root only; and a process that hangs in a system call on a
dead mount cannot be killed by anyone.

On a terminal the command is in the foreground if hasp was started by itself from
an interactive shell; in a pipeline or a script it gets the terminal when it first
reads from it, so that Ctrl-C reaches the whole. Ctrl-Z stops the command and
hasp, which then renews nothing: a command that stays stopped for longer than
--timeout has lost the lock, and is killed.

run and once need process groups: on Windows they are refused.

# Values

What was decided under a lock can be kept beside it, for everyone who comes later and
also where no directory is shared: a value of up to 64 KiB, which only the lock's
holder can set.

	id=$(hasp once --on redis://cache:6379 sweeps/foo --keep -- python create_sweep.py)

If there is a value, it is printed, the command is not run, and the exit status is 0.
If there is none, the command is run under the lock with a pipe as its standard output.
When it has exited with 0, and the last of its group is gone, what it has written is
kept, and printed when it is: so standard output has the value that everyone gets, or
nothing. What is written by a process that has left the group is not waited for. The
value is printed to the byte, passwords of URLs in it too.

Nothing is kept, and what the command has written goes to standard error, if it
exits with another status or is killed (the exit status is the command's), if the lock
is lost before the value is kept (76), if the store does not answer (69; hasp value
then tells whether it is kept all the same), or if there is more than 64 KiB of it
(65). If hasp is killed, nothing is kept. The next hasp once --keep runs the command
again then. Once the value is kept it stays, whatever becomes of the lock: that the
release fails is only warned of.

hasp value prints the value, and its exit status is 1 if there is none. hasp forget
deletes it, while it holds the lock. hasp raise makes later tokens exceed a number,
such as the last token of another store.

# While it waits

On a terminal a line on standard error says who holds the lock, for how long (or
with a + for how long it has been seen to, where the store does not know), and how
much waiting is left; names are cut so that it fits. Elsewhere a line is logged when that holder changes.

hasp never waits for whoever reads its standard error: if that is full, or stopped,
messages are left out, and the last ones wait for 2 seconds. If the reader has gone
hasp goes on without.

# JSON

Durations are in seconds. status prints a lock, and list an array of them:

	{"key":"…","state":"free|held|stale|unknown","holder":{"owner":"…","host":"…","pid":1},
	 "token":1,"ttl_seconds":300,"held_seconds":1.5,"remaining_seconds":298.5,"note":""}

holder is null if the lock is free or its state unknown. break prints

	{"key":"…","broken":true,"now":null}

with the lock as now if another holds it. value, forget and raise print

	{"key":"…","exists":true,"value":"…","encoding":"utf-8","token":1}
	{"key":"…","forgotten":true,"token":1}
	{"key":"…","above":1}

where encoding is base64 for a value that is not UTF-8, value is null if there is none,
and token is the one under which it was set or deleted. doctor prints

	{"store":"…","ok":9,"warnings":1,"problems":0,
	 "findings":[{"check":"eviction","level":"ok","subject":"","seen":"…","advice":""}]}

where subject is what part of the store it is about, such as one of several servers. run and once print, on standard error as
its last line since standard output is the command's, and after a line end since
the command may have left its own last line open,

	{"key":"…","ran":true,"exit":0,"token":1,"waited_seconds":0.1,"ran_seconds":2.5,"error":""}

# Backends

hasp has those for directories (efs), memory (mem, for trying things out), Redis and
etcd. The one for etcd, and verify, are in a second file, hasp-etcd, since they make
each start of a short command under a lock file half as long again. The two are one
program: they are built and installed together, and hasp hands over only to a
hasp-etcd that stands beside it and is of the same build.

For a URL of any other scheme hasp hands over to the program hasp-SCHEME, beside it
or in PATH. Package cli makes such a program of any backend.
*/
package main
