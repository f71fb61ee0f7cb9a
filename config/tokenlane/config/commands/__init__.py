"""The verbs `config` and `invite`."""
