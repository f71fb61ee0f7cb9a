"""The data that agents and workers exchange: requests, answers, messages, errors and sealed payloads."""
