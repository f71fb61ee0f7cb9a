"""The contract between agents and workers: messages, errors, keys, and the scripts that move a request on."""
