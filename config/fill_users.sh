#!/bin/sh
# fill_users.sh TEMPLATE FILE COMMAND…: writes to FILE the users of TEMPLATE, each with the hash of the password in its
# variable, such as WORKER_PASSWORD, and runs the command.
set -eu
umask 077
template=$1 file=$2
shift 2
users=$(cat "$template")
for user in admin agent worker router ops; do
    variable=$(echo "${user}_password" | tr '[:lower:]' '[:upper:]')
    password=$(printenv "$variable") || true
    [ -n "$password" ] || { echo "fill_users.sh: $variable is not set: give it the password of the user $user." >&2; exit 1; }
    hash=$(printf %s "$password" | sha256sum | cut -c-64)
    users=$(printf '%s\n' "$users" | sed "s/HASH_OF_$user\b/$hash/")
done
printf '%s\n' "$users" > "$file"
exec "$@"
