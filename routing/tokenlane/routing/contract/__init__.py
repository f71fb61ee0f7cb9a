"""The data that agents and workers exchange: requests, answers, messages and errors, and how they are sealed."""
