#!/bin/sh
# fill_users.sh TEMPLATE FILE COMMAND…: writes to FILE the users of TEMPLATE, each with the hash of the password in its
# variable, such as WORKER_PASSWORD, and runs the command.
set -eu
umask 077
template=$1 file=$2
shift 2
cp "$template" "$file"
for user in admin agent worker router ops; do
    password=$(printenv "$(echo "${user}_password" | tr '[:lower:]' '[:upper:]')")
    hash=$(printf %s "$password" | sha256sum | cut -c-64)
    sed -i "s/HASH_OF_$user\b/$hash/" "$file"
done
exec "$@"
