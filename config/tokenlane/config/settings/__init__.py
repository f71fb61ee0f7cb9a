"""Reads settings from llm.toml, the environment and the command line, and explains what is wrong with them."""
