#!/usr/bin/env bash
# Runs a node of a Ray cluster until it is told to end. On every machine, with the project's environment active:
#
#   infra/start-node.sh --head --port=6379 --dashboard-host=0.0.0.0     # once; other options go to `ray start` too
#   infra/start-node.sh --address=HEAD:6379                             # on the others
#
# Token authentication is on. Every node and every client needs the same token, in a file that only its owner reads:
#   (umask 077; python -c 'import secrets; print(secrets.token_hex(32), end="")' > ~/.ray/auth_token)
# A token is no encryption: keep the ports within a network of the cluster's own.
#
# SIGTERM, which a spot machine's agent, systemd or Kubernetes sends before the machine goes, is announced to Ray first:
# trainings write a checkpoint within the GRACE seconds and go on elsewhere.
set -euo pipefail

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
export RAY_JOB_STOP_WAIT_TIME_S=30   # a stopped job writes its checkpoint before it is killed
GRACE="${GRACE:-25}"

ray start --block --disable-usage-stats "$@" &
node=$!

leave() {
    if [[ " $* " != *" --head "* ]]; then
        id=$(ray list nodes --filter "node_ip=$(hostname -i | cut -d' ' -f1)" --filter state=ALIVE --format json |
            python -c 'import json, sys; print(json.load(sys.stdin)[0]["node_id"])') &&
            ray drain-node --node-id "$id" --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "SIGTERM" \
                --deadline-remaining-seconds "$GRACE" &&
            sleep "$GRACE"
    fi
    kill -TERM "$node"
}
trap 'leave "$@"' TERM

wait "$node" || wait "$node"   # the first is interrupted by the trap
