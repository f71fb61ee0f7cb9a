#!/usr/bin/env bash
# The `llm` tool asks a pool: `pip install llm`. OPENAI_BASE_URL is the gateway's, and ends with /v1; $1 is the model.
set -euo pipefail
LLM_USER_PATH=$(mktemp -d) # without this line, in the tool's own folder
export LLM_USER_PATH
cat >"$LLM_USER_PATH/extra-openai-models.yaml" <<MODEL
- model_id: pool
  model_name: "$1"
  api_base: "$OPENAI_BASE_URL"
  api_key_name: tokenlane
MODEL
llm --key "$OPENAI_API_KEY" --model pool "Name three primes."
rm -r "$LLM_USER_PATH"
