"""Manages the models of a lane: lists, pulls, verifies, loads and unloads them."""
