# shellcheck shell=bash
# RabbitMQ as a throwaway server: sourced by `services` and `setup`.

# Prints the path of the server's start script, or fails. Debian's own
# `rabbitmq-server` on the PATH insists on the system's user and folders, so
# the plain one is preferred.
rabbitmq_program() {
    if [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]]; then
        echo /usr/lib/rabbitmq/bin/rabbitmq-server
    else
        command -v rabbitmq-server
    fi
}

# It speaks TLS too, five ports further on, with certificates of its own.
rabbitmq_prepare() {
    local home=$1 port=$2
    make_certificates "$home" >>"$home/log" 2>&1
    mkdir "$home/plugins"
    ln -s "$(dirname "$(readlink -f "$(rabbitmq_program)")")"/../plugins/rabbit-[0-9]* "$home/plugins"
    echo '[].' >"$home/enabled_plugins"
    : >"$home/env.conf"
    cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.local = 127.0.0.1:$port
disk_free_limit.absolute = 50MB
log.console = false
listeners.ssl.local = 127.0.0.1:$((port + 5))
ssl_options.cacertfile = $home/authority.pem
ssl_options.certfile = $home/certificate.pem
ssl_options.keyfile = $home/key.pem
CONF
}

# An own name server (epmd) on an own port keeps nodes of parallel runs, and
# of the system, out of each other's sight. It outlives a killed broker, as it
# does on a real machine.
rabbitmq_launch() {
    local home=$1 port=$2
    local own=(
        HOME="$home"
        ERL_EPMD_PORT="$((port + 2))" ERL_EPMD_ADDRESS=127.0.0.1
        RABBITMQ_NODENAME=gozon@localhost
        RABBITMQ_DIST_PORT="$((port + 1))"
        RABBITMQ_CONF_ENV_FILE="$home/env.conf"
        RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf"
        RABBITMQ_ADVANCED_CONFIG_FILE="$home/advanced.config"
        RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins"
        ERL_CRASH_DUMP_SECONDS=0
        # Only the broker itself: looking through all the plugins that come
        # with it would double the time of each start.
        RABBITMQ_PLUGINS_DIR="$home/plugins"
        RABBITMQ_MNESIA_BASE="$home/mnesia"
        RABBITMQ_LOG_BASE="$home/logs"
        # No busy waiting: idle schedulers would eat the tests' processors.
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
    )
    running "$home/epmd.pid" || launch "$home/epmd.pid" "$home/log" env "${own[@]}" epmd
    launch "$home/server.pid" "$home/log" env "${own[@]}" "$(rabbitmq_program)"
}

# rabbitmq_ctl HOME PORT ARGUMENT…: the server's own command line.
rabbitmq_ctl() {
    local home=$1 port=$2
    shift 2
    HOME=$home ERL_EPMD_PORT=$((port + 2)) "$(dirname "$(rabbitmq_program)")/rabbitmqctl" \
        --quiet --node gozon@localhost "$@"
}

# Offers the AMQP 0-9-1 protocol header; a ready broker opens with a method
# frame (type 1).
rabbitmq_answers() {
    converse "$2" 'AMQP\0\0\11\1' 1 | grep -qa $'^\x01'
}

rabbitmq_url() {
    echo "amqp://guest:guest@127.0.0.1:$1/%2f"
}
