#!/bin/bash
# As the official image's entrypoint does. RABBITMQ_DEFAULT_USER and
# RABBITMQ_DEFAULT_PASS are read by the server itself.
set -euo pipefail

if ((EUID == 0)); then
    chown -R rabbitmq:rabbitmq /var/lib/rabbitmq
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$0" "$@"
fi

exec "$@"
