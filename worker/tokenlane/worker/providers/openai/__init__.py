"""Model servers that speak OpenAI's dialect."""
