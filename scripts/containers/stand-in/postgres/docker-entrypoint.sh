#!/bin/bash
# As the official image's entrypoint does: on an empty folder it makes a
# cluster with POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB.
set -euo pipefail

if ((EUID == 0)); then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    : "${POSTGRES_PASSWORD:?}" "${POSTGRES_USER:=postgres}"
    initdb --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") \
        --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 --locale=C.UTF-8
    {
        echo "listen_addresses = '*'"
        echo "unix_socket_directories = '/var/run/postgresql'"
    } >>"$PGDATA/postgresql.conf"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl --options='-c listen_addresses=' --wait start
    [[ ${POSTGRES_DB:-$POSTGRES_USER} == postgres ]] ||
        createdb --username="$POSTGRES_USER" --maintenance-db=postgres "${POSTGRES_DB:-$POSTGRES_USER}"
    pg_ctl --mode=fast --wait stop
fi

exec "$@"
