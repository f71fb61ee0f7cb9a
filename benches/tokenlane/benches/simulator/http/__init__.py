"""How an answer is sent over HTTP: its pace, its bytes, and connections that break."""
