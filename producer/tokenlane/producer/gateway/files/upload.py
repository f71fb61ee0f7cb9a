"""Reads the upload of a file, a form in `multipart/form-data`.

Its content goes from the connection into sealed records: no temporary file on the disk ever has it in the clear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tokenlane.producer.gateway.failures import Refused

_PIECE_BYTES = 256 * 1024
_FIELD_BYTES = 4096
_MOST_PARTS = 16
_NEXT_WITHIN_S = 60.0
"""How long a client may take to send the next piece."""


@dataclass
class Form:
    """What has been read of a form.

    Args:
        fields: its fields that are no files.
        filename: the name of the file; None if the form has none.
        size: the bytes of the file so far.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0


async def read_upload(request: Request, write: Callable[[bytes], Awaitable[None]], limit: int) -> Form:
    """Read the form, and write the content of its field `file` in pieces.

    Args:
        limit: the most bytes that the file may have.

    Raises:
        Refused: the form is not valid, too large, or comes too slowly.
        ClientDisconnect: the client left.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not (boundary := parameters.get(b"boundary")):
        raise Refused(400, "bad_request", "The body is no form: send multipart/form-data with `file` and `purpose`.")
    reader = _FormReader(limit)
    pieces = request.stream().__aiter__()
    try:
        parser = reader.parser(boundary)
        while True:
            async with asyncio.timeout(_NEXT_WITHIN_S):
                piece = await anext(pieces, None)
            if piece is None:
                break
            parser.write(piece)
            if len(reader.content) >= _PIECE_BYTES:
                await write(reader.take())
        parser.finalize()
    except MultipartParseError:
        raise Refused(400, "bad_request", "The form is malformed: send multipart/form-data.") from None
    except TimeoutError:
        raise Refused(408, "body_too_slow", f"No byte of the file arrived within {_NEXT_WITHIN_S:g} s.") from None
    if not reader.is_whole:
        raise Refused(400, "bad_request", "The form ends before its last boundary: send the whole form.")
    if reader.content:
        await write(reader.take())
    return reader.form


class _FormReader:
    """Collects what a `MultipartParser` reads."""

    def __init__(self, limit: int) -> None:
        self.form = Form()
        self.content = bytearray()
        self.is_whole = False
        self._limit = limit
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._value = bytearray()

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_end": self._form_ends,
            },
        )

    def take(self) -> bytes:
        """The content that was not taken yet."""
        taken = bytes(self.content)
        self.content.clear()
        return taken

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Refused(400, "bad_request", f"The form has more than {_MOST_PARTS} parts: send `file` and `purpose`.")
        self._disposition, self._name = b"", ""
        self._value.clear()

    def _header_ends(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self.form.filename is not None:
                raise Refused(400, "bad_request", "The form has two files: upload one at a time.", param="file")
            self.form.filename = options.get(b"filename", b"upload").decode("utf-8", "replace")[:255]

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name != "file":
            if len(self._value) + end - start > _FIELD_BYTES:
                raise Refused(400, "bad_request", "A field of the form is too long.", param=self._name[:100])
            self._value += data[start:end]
            return
        self.form.size += end - start
        if self.form.size > self._limit:
            message = f"The file is larger than {self._limit} bytes: divide it."
            raise Refused(413, "file_too_large", message, param="file")
        self.content += data[start:end]

    def _part_ends(self) -> None:
        if self._name != "file":
            self.form.fields[self._name] = self._value.decode("utf-8", "replace")

    def _form_ends(self) -> None:
        self.is_whole = True
