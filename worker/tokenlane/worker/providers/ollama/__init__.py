"""The provider for Ollama's native API."""
