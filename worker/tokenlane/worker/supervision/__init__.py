"""Keeps the processes of `tokenlane up` running: its embedded Redis server and its workers."""
