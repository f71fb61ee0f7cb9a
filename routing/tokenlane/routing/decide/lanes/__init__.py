"""Lanes: what each offers, which state it is in, and what must hold before it starts a request."""
