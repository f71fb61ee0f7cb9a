#!/bin/sh
# Prints .env.example with a random value for each secret that is empty there: docs/deploy.md.
set -eu
cd "$(dirname "$0")/.."

random_bytes() {
    head -c 32 /dev/urandom
}

while IFS= read -r line; do
    case $line in
    TOKENLANE_POOL_KEY=) printf '%stlk1-%s\n' "$line" "$(random_bytes | base64 | tr '+/' '-_' | tr -d '=\n')" ;;
    *_PASSWORD= | *_TOKEN=) printf '%s%s\n' "$line" "$(random_bytes | od -An -tx1 | tr -d ' \n')" ;;
    *) printf '%s\n' "$line" ;;
    esac
done < .env.example
