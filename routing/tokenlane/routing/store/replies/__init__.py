"""Parses the replies of Lua scripts into types."""
