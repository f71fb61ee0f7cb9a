"""Why a prompt plugin cannot be used, or a call of it failed."""

from __future__ import annotations


class PluginBroken(Exception):
    """The text continues a sentence that begins with the plugin's name.

    `detail`: the plugin's own text, which may quote a prompt.
    """

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why)
        self.detail = detail


class OutOfFuel(PluginBroken):
    """The call computed for too long."""
