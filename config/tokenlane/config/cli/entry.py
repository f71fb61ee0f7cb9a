"""Where the command `tokenlane` begins.

It imports nothing at first, so that a Ctrl-C while Python still reads the rest ends the command as one does later: with
130, and nothing on the screen.
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
