# shellcheck shell=bash
# A shop to measure and the load on it: sourced by `run` and `compare`, which set
#
#   gozon       the binary of the shop
#   generator   the binary of the load generator
#   name        prefix of the shop's databases and folders
#   prefix      prefix of its topics; may be empty
#   seconds     length of a load
#   clients     number of clients
#   tmp         a folder for logs and figures
#   server      URL of the PostgreSQL server, without a database
#   inside      what the gateway speaks to services apart: http (the default) or grpc

port=${BENCH_PORT:-28080}
url=http://127.0.0.1:$port
declare -A pid=() # of each of the shop's processes

# Longest time until a process of the shop is killed, in seconds.
STOP_TIMEOUT=20

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

say() {
    echo "${0##*/}: $*" >&2
}

# --- The shop ---------------------------------------------------------------

# launch NAME COMMAND…: in the background, with a log.
launch() {
    local name=$1
    shift
    "$@" >"$tmp/$name.log" 2>&1 &
    pid[$name]=$!
}

ready() {
    local until=$((SECONDS + 60))
    until "$gozon" health "$1/readyz" 2>/dev/null; do
        ((SECONDS < until)) || { tail "$tmp"/*.log >&2 && fail "the shop does not get ready"; }
        sleep 0.2
    done
}

# open_shop SETUP [apart]: the shop on empty databases, in one process, or with
# `apart` each service in its own. Leaves the settings exported.
open_shop() {
    export GOZON_LOG=warn
    case $1 in
    sqlite)
        rm -rf "${tmp:?}/$name" && mkdir "$tmp/$name"
        export GOZON_DATA_DIR=$tmp/$name GOZON_BROKER_URL=memory:
        unset GOZON_ORDERS_DATABASE_URL GOZON_PAYMENTS_DATABASE_URL
        ;;
    rabbitmq) export GOZON_BROKER_URL=$GOZON_TEST_AMQP_URL${prefix:+?prefix=$prefix} ;;
    kafka) export GOZON_BROKER_URL=$GOZON_TEST_KAFKA_URL${prefix:+?prefix=$prefix} ;;
    esac
    if [[ $1 != sqlite ]]; then
        create_databases
        export GOZON_ORDERS_DATABASE_URL=$server/${name}_orders
        export GOZON_PAYMENTS_DATABASE_URL=$server/${name}_payments
    fi
    if [[ ${2:-} == apart ]]; then
        launch_payments
        launch orders "$gozon" orders --listen "127.0.0.1:$((port + 2))" --database-url "$GOZON_ORDERS_DATABASE_URL"
        ready "http://127.0.0.1:$((port + 1))"
        ready "http://127.0.0.1:$((port + 2))"
        launch gateway "$gozon" gateway --listen "127.0.0.1:$port" \
            --payments-urls "${inside:-http}://127.0.0.1:$((port + 1))" \
            --orders-urls "${inside:-http}://127.0.0.1:$((port + 2))"
    else
        launch shop "$gozon" up --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$((port + 3))"
    fi
    ready "$url"
}

launch_payments() {
    launch payments "$gozon" payments --listen "127.0.0.1:$((port + 1))" --database-url "$GOZON_PAYMENTS_DATABASE_URL"
}

create_databases() {
    local side
    for side in orders payments; do
        psql -qX -v ON_ERROR_STOP=1 "$server/postgres" -c 'set client_min_messages = warning' \
            -c "drop database if exists ${name}_$side with (force)" -c "create database ${name}_$side"
    done
}

close_shop() {
    local process
    for process in "${!pid[@]}"; do
        kill "${pid[$process]}" 2>/dev/null || continue
        timeout "$STOP_TIMEOUT" tail --sleep-interval=0.1 --pid="${pid[$process]}" --follow /dev/null ||
            kill -KILL "${pid[$process]}" 2>/dev/null || true
        wait "${pid[$process]}" 2>/dev/null || true
    done
    pid=()
}

# Fails if a process of the shop has ended or the audit finds an error.
check_shop() {
    local process
    for process in "${!pid[@]}"; do
        kill -0 "${pid[$process]}" 2>/dev/null || { cat "$tmp/$process.log" >&2 && fail "$process has ended"; }
    done
    "$gozon" audit >"$tmp/audit" 2>&1 || { cat "$tmp/audit" >&2 && fail "the audit found errors"; }
}

# --- The load ---------------------------------------------------------------

# load SETUP FIGURES OPTION…: one run of the load generator, its report in
# $tmp/FIGURES.json. `guard` may hold a command that limits the run.
guard=()
load() {
    local setup=$1 figures=$2
    shift 2
    "${guard[@]}" "$generator" bench --url "$url" --clients "$clients" --seconds "$seconds" --json \
        --svg "$tmp/$figures.svg" --processes "$(process_groups "$setup")" "$@" >"$tmp/$figures.json" ||
        { say "$figures: the load failed" && return 1; }
    say "$figures: $(jq -r '"\(.accepted_per_second | round) accepted/s, \(.settled_per_second | round) settled/s"
        + (.failed | to_entries | map(", \(.value) failed: \(.key)") | add // "")
        + (if .missed > 0 then ", \(.missed) missed" else "" end)' "$tmp/$figures.json")"
}

# load_like LOAD SETUP FIGURES PEAK: N clients, or with N/s so many orders per
# second, or with quarter a quarter of the peak.
load_like() {
    local clients=$1 options=()
    case $1 in
    */s) clients=256 options=(--rate "${1%/s}") ;;
    quarter) clients=256 options=(--rate $((${4%.*} / 4))) ;;
    esac
    load "$2" "$3" "${options[@]}"
}

# The processes of the shop and of its servers, as `gozon bench` takes them.
process_groups() {
    local process pids groups=()
    for process in "${!pid[@]}"; do groups+=("$process=${pid[$process]}"); done
    if [[ $1 != sqlite ]]; then
        pids=$(server_pids postgres) && groups+=("database=$pids")
        pids=$(server_pids "$1") && groups+=("broker=$pids")
    fi
    echo "${groups[*]}"
}

# server_pids KIND: the process of a server that scripts/services started, or all
# processes of that kind, or nothing if the server is on another machine.
server_pids() {
    local -A program=([postgres]=postgres [rabbitmq]=beam.smp [kafka]=java)
    local file=${GOZON_SERVICES_DIR:-}/$1/server.pid
    if [[ -s $file ]]; then
        cut -d ' ' -f 1 "$file"
    else
        pgrep -x "${program[$1]}" | paste -sd, | grep .
    fi
}
