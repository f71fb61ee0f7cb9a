"""Runs the command line as `python -m tokenlane.config`, for processes that start another verb."""

from __future__ import annotations

from tokenlane.config.cli.entry import main

main()
