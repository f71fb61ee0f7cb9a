"""Settings from llm.toml, environment and command line, as frozen values; and what is wrong with them, for people."""
