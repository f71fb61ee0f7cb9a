"""One attempt of one request, from its claim to its end."""
