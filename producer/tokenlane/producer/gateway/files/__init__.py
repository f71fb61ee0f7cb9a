"""OpenAI's Files: what clients upload and batches write, sealed in a directory of the operator's."""
