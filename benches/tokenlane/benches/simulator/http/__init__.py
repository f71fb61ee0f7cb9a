"""How an answer goes onto a connection: its pace, its bytes, and what breaks on the way."""
