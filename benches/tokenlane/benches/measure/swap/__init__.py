"""The time to a first token after a model was unloaded and loaded again, with its KV cache kept."""
