"""The entry point of the command `tokenlane`.

`main` imports the command line, so that Ctrl-C during these slow imports also exits with 130 and without a traceback.
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
