"""Reads the body of a request for a video, which may bring an image."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from fastapi import Request
from starlette.exceptions import HTTPException

from infra.errors import InvalidInput
from serving.http.bodies import MAX_FIELDS, content_type, from_form, read_body, validated
from serving.http.errors import MAX_BODY
from serving.http.learning.receiving import ENVELOPE, FormBounds, declared_length, receive_form, too_large
from serving.schemas import MAX_IMAGE_URL, CreateVideo, InputReference

MAX_IMAGE = 16 << 20  # bytes of an image file
FORM = FormBounds(
    "input_reference",
    MAX_IMAGE,
    needed=False,
    repeats=True,
    fields=MAX_FIELDS,
    field_bytes=ENVELOPE,
    long={"input_reference[image_url]": MAX_IMAGE_URL},
)


async def read_video(request: Request, image: Path) -> tuple[CreateVideo, str | None]:
    """The body, and the name of the image that came with it, as a form's file or as a data URL; None without one.

    Args:
        image: receives the image's bytes.

    Raises UserError, HTTPException or RequestValidationError.
    """
    if content_type(request) == "multipart/form-data":
        declared = declared_length(request)
        if declared is not None and declared > MAX_IMAGE + ENVELOPE:
            raise too_large(MAX_IMAGE)
        form = await receive_form(request, image, FORM)
        fields = from_form(form.items)
        if form.filename is None:
            return with_data(validated(CreateVideo, fields), image)
        fields.setdefault("input_reference", {})
        body = validated(CreateVideo, fields)
        assert body.input_reference is not None
        if body.input_reference.file_id is not None or body.input_reference.image_url is not None:
            raise InvalidInput(
                "input_reference: give a file, or where it is, not both.", code="invalid_image"
            )
        return body, form.filename
    size = len(raw := await request.body())
    if size > MAX_BODY and b'"data:' not in raw:
        raise too_long()
    body = await read_body(request, CreateVideo)
    told = "" if body.input_reference is None else body.input_reference.image_url or ""
    if size - len(told) > MAX_BODY:
        raise too_long()
    return with_data(body, image)


def too_long() -> HTTPException:
    return HTTPException(413, f"the body is larger than {MAX_BODY} bytes.")


def with_data(body: CreateVideo, image: Path) -> tuple[CreateVideo, str | None]:
    """The body without its data URL, whose bytes are written to `image`."""
    given = body.input_reference
    if given is None:
        return body, None
    if given.image_url is None:
        if given.file_id is None:
            raise InvalidInput(
                "input_reference: expected a file in a form, `file_id`, or `image_url` with a data URL.",
                code="invalid_image",
            )
        return body, None
    image.write_bytes(decoded(given.image_url))
    kept = InputReference(caption=given.caption)
    return body.model_copy(update={"input_reference": kept}), "image"


def decoded(url: str) -> bytes:
    """The bytes of a data URL. Raises InvalidInput."""
    about, comma, text = url.partition(",")
    if not comma or not about.removeprefix("data:").startswith("image/") or not about.endswith(";base64"):
        raise InvalidInput(
            "input_reference.image_url: expected an image as a data URL, data:image/png;base64,...",
            code="invalid_image",
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            "input_reference.image_url: its base64 is damaged.", code="invalid_image"
        ) from None
