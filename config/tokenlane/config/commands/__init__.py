"""The verbs `tokenlane config` and `tokenlane invite`."""
