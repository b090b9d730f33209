# shellcheck shell=bash
# Kafka as a throwaway server, one KRaft node that is broker and controller:
# sourced by `services` and `setup`.

kafka_pom=$(dirname "${BASH_SOURCE[0]}")/kafka/pom.xml

# The folder that holds the broker's jars once `setup` has fetched them.
kafka_jars() {
    local version
    version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$kafka_pom")
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/gozon/kafka-$version"
}

# Prints the path of a Java 17 or newer, or fails.
kafka_java() {
    local java
    for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java)" /usr/lib/jvm/*/bin/java; do
        if [[ -x $java ]] && "$java" --version 2>/dev/null |
            awk 'NR == 1 { split($2, v, "."); old = v[1] < 17 } END { exit old }'; then
            echo "$java"
            return
        fi
    done
    return 1
}

# kafka_command CLASS ARGUMENT…: fills the array `command` with what runs it.
kafka_command() {
    command=("$(kafka_java)" -Xmx512m -XX:+UseSerialGC
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
        -cp "$(kafka_jars)/*" "$@")
}

# The short broker session lets a killed broker register again soon; the short
# consumer sessions let tests see a dead consumer's partitions move on.
kafka_prepare() {
    local home=$1 port=$2
    cat >"$home/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=CLIENT://127.0.0.1:$port
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
log.cleaner.dedupe.buffer.size=8388608
CONF
    local command
    kafka_command kafka.tools.StorageTool format --config "$home/server.properties" \
        --cluster-id gozonGozonGozonGozonGg
    "${command[@]}" >>"$home/log" 2>&1
}

kafka_launch() {
    local home=$1 command
    kafka_command kafka.Kafka "$home/server.properties"
    launch "$home/server.pid" "$home/log" "${command[@]}"
}

# Asks for the cluster's metadata (version 0): it names the broker, by its
# address, only once the controller has let it in.
kafka_answers() {
    converse "$2" '\0\0\0\16\0\3\0\0\0\0\0\1\377\377\0\0\0\0' 27 | grep -qa '127\.0\.0\.1'
}

kafka_url() {
    echo "kafka://127.0.0.1:$1"
}
