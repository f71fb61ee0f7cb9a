"""A prompt plugin in Python: fills the variables of a request into its system prompt."""

from __future__ import annotations

import json
from string import Template as Text

from componentize_py_types import Err
from wit_world import exports


class Template(exports.Template):
    def render(self, input: str) -> str:
        request = json.loads(input)
        try:
            system = Text(request["system"] or "").substitute(request["variables"])
        except KeyError as missing:
            raise Err(f"the metadata lacks {missing}") from None
        return json.dumps({"system": system})
