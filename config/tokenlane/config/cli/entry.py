"""The entry point of the command `tokenlane`.

It imports nothing at first, so that Ctrl-C during the imports ends the command as it does later: with 130, silently.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit."""
    try:
        from tokenlane.config.cli.root import main as run

        run()
    except KeyboardInterrupt:
        from tokenlane.config.exit_codes import CANCELLED

        raise SystemExit(CANCELLED) from None
