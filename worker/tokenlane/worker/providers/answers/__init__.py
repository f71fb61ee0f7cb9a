"""Reads what answers contain in all dialects: text, reasoning, tool calls, log probabilities and vectors."""
