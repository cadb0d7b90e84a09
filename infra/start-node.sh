#!/usr/bin/env bash
# Runs a node of a Ray cluster. On every machine, with the project's environment active:
#
#   infra/start-node.sh --head --port=6379 --dashboard-host=0.0.0.0     # once; options are passed to `ray start`
#   infra/start-node.sh --address=HEAD:6379                             # on the others
#
# Token authentication is on. Every node and every client needs the same token, in a file that only its owner can read:
#   (umask 077; mkdir -p ~/.ray; python -c 'import secrets; print(secrets.token_hex(32), end="")' > ~/.ray/auth_token)
# Connections are not encrypted, so the ports must be in a private network.
#
# On SIGTERM, which a spot machine's agent, systemd or Kubernetes sends before the machine stops, Ray drains the node:
# trainings store a checkpoint within this time, and resume on other nodes.
set -euo pipefail

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-25}"
export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-30}"   # a stopped job stores a checkpoint, too
exec ray start --block --disable-usage-stats "$@"
