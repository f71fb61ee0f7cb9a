"""OpenTelemetry spans of requests: from the agent's submission over attempts on lanes to the model server's answer."""
