#!/bin/sh
# Writes .env.example to .env, or to the file of the first argument, with a random value for each secret that is empty
# there: docs/deploy.md. A file that exists is left as it is, since its secrets are in use.
set -euC
umask 077
CDPATH='' cd -- "$(dirname -- "$0")/.."
file=${1:-.env}
[ ! -e "$file" ] || { echo "new_env.sh: $file exists. To replace its secrets, move the file away first." >&2; exit 1; }

random_bytes() {
    head -c 32 /dev/urandom
}

while IFS= read -r line; do
    case $line in
    TOKENLANE_POOL_KEY=) printf '%stlk1-%s\n' "$line" "$(random_bytes | base64 | tr '+/' '-_' | tr -d '=\n')" ;;
    *_PASSWORD= | *_TOKEN=) printf '%s%s\n' "$line" "$(random_bytes | od -An -tx1 | tr -d ' \n')" ;;
    *) printf '%s\n' "$line" ;;
    esac
done < .env.example > "$file"
