#!/bin/sh
# A first argument that is a flag belongs to nats-server.
set -eu
case "${1:-}" in
    -*) set -- nats-server "$@" ;;
esac
exec "$@"
