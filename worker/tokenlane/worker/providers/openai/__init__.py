"""The providers for model servers with OpenAI's dialect."""
