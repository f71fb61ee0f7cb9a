"""The built-in model server: a small real model, and llama.cpp's server in a child process."""

from __future__ import annotations

__all__ = ["MODEL_NAME"]

MODEL_NAME = "smollm2-135m-instruct"
