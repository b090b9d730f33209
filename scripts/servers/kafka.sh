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

# Besides plain text, whose clients may do everything, it speaks SASL over TLS three ports further
# on, SASL alone on the next one, and TLS with client certificates on the next. The user gozon may
# do everything too, and the user guest nothing. Their password is "secret sauce".
#
# The short broker session lets a killed broker register again soon; the short
# consumer sessions let tests see a dead consumer's partitions move on.
kafka_prepare() {
    local home=$1 port=$2
    make_certificates "$home" >>"$home/log" 2>&1
    cat "$home/key.pem" "$home/certificate.pem" >"$home/keystore.pem"
    local login=org.apache.kafka.common.security
    local plain="$login.plain.PlainLoginModule required user_gozon=\"secret sauce\" user_guest=\"secret sauce\";"
    local scram="$login.scram.ScramLoginModule required;"
    cat >"$home/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1)),SASLTLS://127.0.0.1:$((port + 3)),SASL://127.0.0.1:$((port + 4)),TLS://127.0.0.1:$((port + 5))
advertised.listeners=CLIENT://127.0.0.1:$port,SASLTLS://localhost:$((port + 3)),SASL://127.0.0.1:$((port + 4)),TLS://localhost:$((port + 5))
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASLTLS:SASL_SSL,SASL:SASL_PLAINTEXT,TLS:SSL
ssl.keystore.type=PEM
ssl.keystore.location=$home/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$home/authority.pem
listener.name.tls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasltls.plain.sasl.jaas.config=$plain
listener.name.sasltls.scram-sha-256.sasl.jaas.config=$scram
listener.name.sasltls.scram-sha-512.sasl.jaas.config=$scram
listener.name.sasl.plain.sasl.jaas.config=$plain
listener.name.sasl.scram-sha-256.sasl.jaas.config=$scram
listener.name.sasl.scram-sha-512.sasl.jaas.config=$scram
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:gozon;User:CN=localhost
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
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=6000
log.cleaner.dedupe.buffer.size=8388608
CONF
    local command
    kafka_command kafka.tools.StorageTool format --config "$home/server.properties" \
        --cluster-id gozonGozonGozonGozonGg \
        --add-scram 'SCRAM-SHA-256=[name=gozon,password="secret sauce"]' \
        --add-scram 'SCRAM-SHA-512=[name=gozon,password="secret sauce"]'
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
