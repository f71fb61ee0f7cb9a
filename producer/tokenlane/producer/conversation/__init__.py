"""Conversations: their history on the agent's side, and the questions that agents ask in them."""
