"""Reads answers of all dialects: text, reasoning, tool calls, log probabilities and vectors."""
