"""Receives a form with one file, piece by piece, into a file on the local disk: memory stays small however large it is.

form = await receive_form(request, path, FormBounds("file", most=1 << 30))
form.fields, form.filename
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from infra.errors import InvalidInput, UserError
from serving.files.store import UPLOAD_SECONDS
from serving.http.bodies import content_type
from serving.threads import UPLOADS

BUFFER = 1 << 20  # bytes that are collected before they are written
ENVELOPE = 64 * 1024  # bytes of a form around its file: fields and boundaries
IDLE_SECONDS = 30.0  # the longest pause between two pieces of a body


@dataclass(frozen=True)
class FormBounds:
    """What a form may have.

    Args:
        file: name of the field with the file.
        most: largest number of bytes of the file.
        needed: whether there must be a file.
        repeats: whether a field may come several times, as lists do.
        fields: most fields.
        field_bytes: of a field's name or value; all fields together have at most `ENVELOPE`.
        long: bytes of fields that may be longer, and are not counted with the others.
    """

    file: str
    most: int
    needed: bool = True
    repeats: bool = False
    fields: int = 16
    field_bytes: int = 4096
    long: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Received:
    """A form: its fields in order, and the name of its file."""

    items: list[tuple[str, str]] = field(default_factory=list)
    filename: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        return dict(self.items)


class _Form:
    """Callbacks of the parser. `pieces` are bytes of the file that are not written yet."""

    def __init__(self, bounds: FormBounds) -> None:
        self.bounds, self.received, self.pieces = bounds, Received(), bytearray()
        self._bytes = 0  # of all fields
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._field: str | None = None  # None: inside the file
        self._content = bytearray()

    def on_part_begin(self) -> None:
        self._disposition = b""
        self._content.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" not in options:
            self._field = name[: self.bounds.field_bytes]
            return
        if name != self.bounds.file or self.received.filename is not None:
            raise InvalidInput(
                f"the form has a file named {name[:60]!r}; send exactly one file, as `{self.bounds.file}`.",
                code="invalid_form",
            )
        self._field = None
        self.received.filename = safe_name(options[b"filename"].decode(errors="replace"))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.pieces += data[start:end]
            return
        self._content += data[start:end]
        most = self.bounds.long.get(self._field)
        if most is None:
            self._bytes += end - start
        if self._bytes > ENVELOPE:
            raise HTTPException(413, f"the body's fields are larger than {ENVELOPE} bytes.")
        if len(self._content) > (most := most or self.bounds.field_bytes):
            raise InvalidInput(
                f"the form's field {self._field[:60]!r} is longer than {most} bytes; give less.",
                code="invalid_form",
            )

    def on_part_end(self) -> None:
        if self._field is None:
            return
        repeated = not self.bounds.repeats and self._field in self.received.fields
        if repeated or len(self.received.items) >= self.bounds.fields:
            raise InvalidInput(
                f"the form has {self._field[:60]!r} more than once, or more than {self.bounds.fields} fields; give each once.",
                code="invalid_form",
            )
        self.received.items.append((self._field, self._content.decode(errors="replace")))

    def parser(self, boundary: bytes) -> MultipartParser:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        every = [f"on_{name}" for name in (*names, "headers_finished")]
        return MultipartParser(boundary, {name: getattr(self, name) for name in every})  # type: ignore[arg-type]


def safe_name(name: str) -> str:
    """The last part of a name, without control characters, at most 200 bytes: one that every file system takes."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter if letter.isprintable() else "_" for letter in last).strip(" .")
    return kept.encode(errors="replace")[-200:].decode(errors="ignore").strip(" .") or "file"


async def receive_form(request: Request, to: Path, bounds: FormBounds) -> Received:
    """Write the form's file to the path `to`. Returns its fields.

    Raises:
        HTTPException: no multipart form (415), or too large (413), or a pause of more than 30 seconds (408).
        UserError: an invalid form.
    """
    form, most = _Form(bounds), bounds.most
    seen = 0
    with to.open("wb") as target:
        parser = form.parser(boundary_of(request))
        try:
            async for piece in body_of(request):
                seen += len(piece)
                parser.write(piece)
                if seen > most + ENVELOPE:
                    raise too_large(most)
                if len(form.pieces) >= BUFFER:
                    await flush(form, target, most)
            parser.finalize()
        except FormParserError:
            raise UserError("the form is damaged or cut off; send it again.", code="invalid_form") from None
        await flush(form, target, most)
    if bounds.needed and form.received.filename is None:
        raise InvalidInput(f"the form has no file `{bounds.file}`; send one.", code="invalid_form")
    return form.received


async def flush(form: _Form, target: IO[bytes], most: int) -> None:
    """Write the collected bytes of the file."""
    if target.tell() + len(form.pieces) > most:
        raise too_large(most)
    data = bytes(form.pieces)
    form.pieces.clear()
    await UPLOADS.run(target.write, data)


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """The pieces of a body. Raises HTTPException (408) if none arrives for a while, or the whole takes too long."""
    stream, end = request.stream(), time.monotonic() + UPLOAD_SECONDS
    while True:
        if time.monotonic() > end:
            raise HTTPException(
                408, f"the body took more than {UPLOAD_SECONDS:g} s; send it in parts (POST /v1/uploads)."
            )
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(stream, None)
        except TimeoutError:
            raise HTTPException(
                408, f"no part of the body arrived for {IDLE_SECONDS:g} s; send it again without pauses."
            ) from None
        if piece is None:
            return
        yield piece


def boundary_of(request: Request) -> bytes:
    """What separates the parts of a form. Raises HTTPException if the body is none."""
    if content_type(request) != "multipart/form-data":
        raise HTTPException(
            415, f"content type {content_type(request)[:60]!r}: send multipart/form-data with a file."
        )
    _, options = parse_options_header(request.headers["content-type"])
    if not options.get(b"boundary"):
        raise UserError(
            "the form's content type names no boundary; send multipart/form-data.", code="invalid_form"
        )
    return options[b"boundary"]


def declared_length(request: Request) -> int | None:
    """Bytes of the body, as its Content-Length says; None without one. Raises InvalidInput for another text."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise InvalidInput("Content-Length: expected a number of bytes.", code="invalid_length")
    return int(text)


def too_large(most: int) -> HTTPException:
    return HTTPException(
        413, f"the file is larger than {most} bytes, the most that is allowed; send a smaller one."
    )
