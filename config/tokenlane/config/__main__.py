"""`python -m tokenlane.config`: the command line, for processes that start another verb."""

from __future__ import annotations

from tokenlane.config.cli.entry import main

main()
