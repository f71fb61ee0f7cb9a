"""Sends answers over HTTP: their pace, their bytes, and connections that break."""
