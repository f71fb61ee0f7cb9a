"""One attempt of one request, from the claim to its end."""
