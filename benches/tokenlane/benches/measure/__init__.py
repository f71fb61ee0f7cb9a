"""Measurements, a module each, and the processes they run in."""
