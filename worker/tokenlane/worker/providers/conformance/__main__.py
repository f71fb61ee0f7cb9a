"""`python -m tokenlane.worker.providers.conformance`: runs the checks of a provider from the command line."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from pydantic import SecretStr

from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.providers.registry import default_registry

from .checks import CHECKS, Report, check_provider

_LONGEST_KEY = 65536


def main() -> int:
    """Print the report. Return 0 if all promises are kept, 1 if one is broken, 2 if the provider cannot be created."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenlane.worker.providers.conformance",
        description="Checks that a provider keeps its promises.",
        epilog="checks: " + "; ".join(f"{name}: {(check.__doc__ or '').strip()}" for name, check in CHECKS.items()),
    )
    parser.add_argument("--provider", required=True, help="the provider's name, as in llm.toml")
    parser.add_argument("--endpoint", help="the server, as http://host:port (default: the provider's)")
    parser.add_argument("--model", required=True, help="a model of the server that can chat")
    parser.add_argument("--embedding-model", help="a model that embeds (default: --model)")
    parser.add_argument("--api-key-file", type=Path, help="a file that holds the API key")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help="run only these checks")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="the longest time for one answer, in seconds (default: 120)"
    )
    options = parser.parse_args()
    try:
        report = asyncio.run(_check(options))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{report.table()}\n")
    return 0 if report.passed else 1


def _text_of(file: Path) -> str:
    try:
        return read_file(file, _LONGEST_KEY).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"--api-key-file {file} cannot be read: {why}.") from None


async def _check(options: argparse.Namespace) -> Report:
    file: Path | None = options.api_key_file
    key = None if file is None else SecretStr((await asyncio.to_thread(_text_of, file)).strip())
    lane = LaneSettings("conformance", options.provider, options.endpoint, api_key=key)
    async with default_registry().create(lane) as provider:
        return await check_provider(
            provider,
            options.model,
            name=options.provider,
            embedding_model=options.embedding_model,
            patience_s=options.patience,
            only=options.only,
        )


if __name__ == "__main__":
    sys.exit(main())
