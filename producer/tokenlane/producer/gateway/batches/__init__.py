"""OpenAI's Batches: each line of a file becomes a request of low priority, and its answer a line of another file."""
