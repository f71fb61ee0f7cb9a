"""The verbs of the gateway: `serve` and `launch`."""
