"""Back ends that speak OpenAI's dialect."""
