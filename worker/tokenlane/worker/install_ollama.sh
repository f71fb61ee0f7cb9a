#!/bin/sh
# Installs Ollama for this user alone, in ~/.local. It needs no root, asks for none, and starts nothing.
# About 1.5 GB are downloaded from ollama.com.
set -eu

into="$HOME/.local"

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) system=linux-amd64 ;;
    Linux-aarch64 | Linux-arm64) system=linux-arm64 ;;
    *)
        echo "On this system take Ollama's own installer: https://ollama.com/download" >&2
        exit 1
        ;;
esac

clean_up() {
    trap '' HUP INT TERM
    rm -rf "$scratch"
}

scratch=$(mktemp -d)
trap clean_up EXIT
# Not every shell takes a signal for an exit.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
archive="$scratch/ollama"

# Releases come packed with zstd; older ones, and this host if it has no zstd, take gzip.
if command -v zstd > /dev/null &&
    curl --fail --location --progress-bar --output "$archive" "https://ollama.com/download/ollama-$system.tar.zst"; then
    zstd --decompress --quiet --stdout "$archive" > "$archive.tar"
else
    curl --fail --location --progress-bar --output "$archive" "https://ollama.com/download/ollama-$system.tgz"
    gzip --decompress --stdout < "$archive" > "$archive.tar"
fi
mkdir -p "$into"
tar --extract --file "$archive.tar" --directory "$into"

echo "Ollama is installed: $("$into/bin/ollama" --version 2> /dev/null || echo "$into/bin/ollama")"
echo "Start it:    $into/bin/ollama serve"
echo "Get a model: $into/bin/ollama pull phi3    (2.2 GB)"
