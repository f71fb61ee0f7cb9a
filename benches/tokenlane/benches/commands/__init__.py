"""The verbs `bench` and `simulate`."""
