"""Settings from llm.toml, environment and command line as frozen values, and the messages for wrong settings."""
