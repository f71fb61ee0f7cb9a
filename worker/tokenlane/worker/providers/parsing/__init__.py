"""What comes from a back end, as events and JSON: server-sent events, JSON lines, the form of a document."""
