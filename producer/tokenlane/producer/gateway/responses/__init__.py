"""OpenAI's Responses, also in the background: https://platform.openai.com/docs/api-reference/responses."""
