"""The verbs `tokenlane bench` and `tokenlane simulate`."""
