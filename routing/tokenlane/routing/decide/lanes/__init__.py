"""Lanes: what a lane offers, its state, and the conditions under which it starts a request."""
