"""`python -m tokenlane.config`: the command line, for processes that start others of their own kind."""

from __future__ import annotations

from tokenlane.config.cli.entry import main

main()
