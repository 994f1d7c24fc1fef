#!/usr/bin/env bash
# PostgreSQL 15 (Debian 12): the statement by which workers take ONE job from a table,
#
#	UPDATE jobs SET state = 'taken' WHERE state = 'ready' AND id IN
#	  (SELECT id FROM jobs WHERE state = 'ready' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id
#
# takes all that are ready, with default settings of the planner, when the table's statistics are from a time when
# few were: a queue that was empty when it was last analyzed, and is full now. The planner then
# thinks little of the outer condition, and runs the inner query again for each row that it
# finds. The rows that this very statement has changed already are passed over there, as those
# that others have locked are, so each run of it gives the next job, and each is taken.
#
# Expected: LIMIT 1 is one job, whatever the plan. A plan may change how long a statement takes, not
# what it does. After ANALYZE the same statement, on the same rows, takes one. Written with "id =" and not
# "id IN" it takes one with each plan, since a scalar subquery runs once. Some who were bitten have
# written about it; the manual's pages on SELECT, UPDATE and explicit locking do not say it.
#
# It takes the server from Debian into a temporary folder if this host has none, and runs it as "nobody" on
# a socket. It needs root. It fails if what is said here is no longer so.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root, to become somebody else" >&2; exit 2; }
work=$(mktemp -d)
bin=/usr/lib/postgresql/15/bin
as_nobody() { (cd "$work" && setpriv --reuid nobody --regid nogroup --clear-groups env LD_LIBRARY_PATH="$work/root/usr/lib/x86_64-linux-gnu" "$@"); }
cleanup() {
	as_nobody "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
chmod 755 "$work"
if [ ! -x $bin/postgres ]; then
	get() {
		(cd "$work" && apt-get -o APT::Sandbox::User=root download -qq postgresql-15 postgresql-client-15 libpq5 libxml2 libxslt1.1 \
			libicu72 libldap-2.5-0 libsasl2-2 >/dev/null)
	}
	get 2>/dev/null || { apt-get update -qq && get; }
	for d in "$work"/*.deb; do dpkg -x "$d" "$work/root"; done
	bin=$work/root$bin
fi
mkdir "$work/data" "$work/run"
chown nobody "$work/data" "$work/run"
as_nobody "$bin/initdb" -D "$work/data" -U nobody -A trust >/dev/null
as_nobody "$bin/pg_ctl" -w -t 60 -D "$work/data" -o "-k $work/run -c jit=off -c listen_addresses=''" -l "$work/run/log" start >/dev/null
sql() { as_nobody "$bin/psql" -XqAt -v ON_ERROR_STOP=1 -h "$work/run" -U nobody -d postgres "$@"; }
sql -c 'SELECT version()'

take() { # OPERATOR: takes a job in a transaction that is rolled back, and says which
	sql -c "BEGIN" -c "UPDATE jobs SET state = 'taken' WHERE state = 'ready' AND id $1
		(SELECT id FROM jobs WHERE state = 'ready' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id" -c "ROLLBACK" | tr '\n' ' '
}
sql -c "CREATE TABLE jobs (id bigserial PRIMARY KEY, state text NOT NULL) WITH (autovacuum_enabled = false)" -c "CREATE INDEX ON jobs (state)" \
	-c "INSERT INTO jobs (state) SELECT 'done' FROM generate_series(1, 10000)" -c "ANALYZE jobs" \
	-c "INSERT INTO jobs (state) SELECT 'ready' FROM generate_series(1, 5)"
many=$(take IN) equal=$(take '=')
sql -c "ANALYZE jobs"
one=$(take IN)
echo "5 jobs are ready. Taken with IN: $many; with =: $equal; with IN after ANALYZE: $one"
[ "$many" = "10001 10002 10003 10004 10005 " ] && [ "$equal" = "10001 " ] && [ "$one" = "10001 " ] || { echo "it is not so any more" >&2; exit 1; }
