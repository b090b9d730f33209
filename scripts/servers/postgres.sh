# shellcheck shell=bash
# PostgreSQL as a throwaway server: sourced by `services` and `setup`.

# Prints the folder of the newest PostgreSQL programs, or fails. GOZON_POSTGRES_BIN
# names the folder of another server; a client program may be missing there.
postgres_bin() {
    [[ -z ${GOZON_POSTGRES_BIN:-} ]] || { echo "$GOZON_POSTGRES_BIN" && return; }
    installed_postgres_bin
}

installed_postgres_bin() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
    [[ -x $found ]] || found=$(command -v postgres) || return
    dirname "$found"
}

# PostgreSQL refuses to run as root, so root hands over to a lesser user:
# $postgres_as is the prefix for its commands. `setpriv` replaces itself with
# the command, so that the pid stays the server's.
postgres_as=()
if ((EUID == 0)); then
    postgres_user=$(id -nu postgres 2>/dev/null || echo nobody)
    postgres_as=(setpriv --reuid="$postgres_user" --regid="$(id -g "$postgres_user")" --clear-groups)
fi

# postgres_prepare HOME PORT: creates the cluster, and builds what lets its disk be full. With $FAST it does not wait
# for the disk; what is committed still survives a kill -9, as the tests need.
postgres_prepare() {
    local home=$1 port=$2
    ((EUID != 0)) || chown "$postgres_user" "$home"
    cc -shared -fPIC -O2 -o "$home/full_disk.so" "$scripts/servers/full_disk.c" -ldl >>"$home/log" 2>&1
    "${postgres_as[@]}" "$(postgres_bin)/initdb" --pgdata="$home/data" --username=gozon \
        --auth=trust --encoding=UTF8 --locale=C --no-sync >>"$home/log" 2>&1
    cat >>"$home/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
max_connections = 300
shared_preload_libraries = 'pg_stat_statements'
CONF
    [[ -z ${FAST:-} ]] || cat >>"$home/data/postgresql.conf" <<CONF
fsync = off
full_page_writes = off
CONF
}

postgres_launch() {
    local home=$1
    # A killed server leaves its lock file, and a container's init may be slow
    # to reap it, so that its pid still looks alive.
    rm -f "$home/data/postmaster.pid"
    launch "$home/server.pid" "$home/log" \
        "${postgres_as[@]}" env LD_PRELOAD="$home/full_disk.so" FULL_DISK_FLAG="$home/disk_is_full" \
        "$(postgres_bin)/postgres" -D "$home/data"
}

postgres_answers() {
    "$(installed_postgres_bin)/pg_isready" --quiet --host=127.0.0.1 --port="$2" --username=gozon --dbname=postgres
}

postgres_url() {
    echo "postgres://gozon@127.0.0.1:$1/postgres"
}
