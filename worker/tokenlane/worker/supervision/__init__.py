"""What `tokenlane up` keeps running: its embedded Redis server and its worker processes."""
