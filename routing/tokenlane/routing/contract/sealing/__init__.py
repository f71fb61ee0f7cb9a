"""Encrypts (seals) what agents and workers send each other, with the key of the pool."""
