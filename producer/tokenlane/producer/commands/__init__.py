"""The commands `chat`, `embed`, `models` and `demo`."""
