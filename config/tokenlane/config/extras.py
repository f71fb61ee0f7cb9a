"""Says how to install an extra. No package index has a release of tokenlane, so it is installed from a checkout."""

from __future__ import annotations


def install_command(extras: str) -> str:
    """Return the command that installs extras, such as `worker,builtin`. It works in a checkout of tokenlane."""
    return f"pip install '.[{extras}]'"


def install_advice(extras: str) -> str:
    """Return the advice to install extras, as the end of a sentence without its full stop."""
    names = " and ".join(f"`{name}`" for name in extras.split(","))
    return f"install the extra{'s' if ',' in extras else ''} {names} (in a checkout: {install_command(extras)})"
