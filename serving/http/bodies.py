"""Reads request bodies: JSON, or for videos also the form that OpenAI's clients send.

Routes call this after they have identified the caller: FastAPI would read a body before it checks the key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from infra.errors import InvalidInput, Throttled, UserError
from serving.schemas import CharacterUse, CreateVideo, InputReference, LoraUse, NoisePriorUse

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MAX_FIELDS = 64
Body = TypeVar("Body", bound=BaseModel)


class Bodies:
    """Limits the bodies that one ingress is receiving. A missing body holds its place for ten seconds.

    For one event loop.

    Args:
        each: maximum per tenant.
    """

    def __init__(self, each: int) -> None:
        self._each, self._coming = each, Counter[str]()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Hold a place while reading a body. Raises Throttled if the tenant has too many already."""
        if self._coming[tenant] >= self._each:
            raise Throttled(
                f"the bodies of {self._each} requests with this API key have not arrived; send each body without delay.",
                code="too_many_bodies",
                retry_after=1.0,
            )
        self._coming[tenant] += 1
        try:
            yield
        finally:
            self._coming[tenant] -= 1
            if not self._coming[tenant]:
                del self._coming[tenant]


async def read_body(request: Request, model: type[Body]) -> Body:
    """Read the request's body, JSON or a form. Raises UserError, HTTPException or RequestValidationError if it is invalid."""
    if content_type(request) not in FORMS:
        return await read_json(request, model)
    async with request.form(max_files=0, max_fields=MAX_FIELDS) as form:
        return validated(model, from_form(form.multi_items()))


async def read_json(request: Request, model: type[Body]) -> Body:
    """Read the request's JSON body. Raises as `read_body` does."""
    kind = content_type(request)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, f"content type {kind[:60]!r}: send application/json.")
    return validated(model, parse_json(await request.body()))


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def validated(model: type[Body], content: Any) -> Body:
    """Validate the content. Raises RequestValidationError."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        located = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(located) from None


def parse_json(body: bytes) -> Any:
    """Parse a JSON text. Raises UserError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = (
            "it is empty"
            if not body
            else error.msg
            if isinstance(error, json.JSONDecodeError)
            else "not text"
        )
        message = f"the body is not JSON ({reason}); send an object, as shown at /docs."
        raise UserError(message, code="invalid_json") from None


LISTS: dict[str, type[BaseModel]] = {"lora": LoraUse, "characters": CharacterUse}
OBJECTS: dict[str, type[BaseModel]] = {"noise_prior": NoisePriorUse, "input_reference": InputReference}


def from_form(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Convert a form's fields to JSON types: numbers become numbers, `lora` a list, `noise_prior` an object.

    Lists and objects are JSON text, or as OpenAI's clients encode them: lora[][name]=a, lora[][scale]=0.5, ...,
    noise_prior[weight]=0.3.
    """
    fields: dict[str, Any] = {}
    columns: dict[str, dict[str, list[str]]] = {}  # of each list
    objects: dict[str, dict[str, Any]] = {}
    for name, value in items:
        assert isinstance(value, str)  # files were already refused, or taken out
        whole, _, inner = name.partition("[")
        if whole in LISTS and inner.startswith("][") and name.endswith("]"):
            columns.setdefault(whole, {}).setdefault(inner[2:-1], []).append(value)
            continue
        nested = whole in OBJECTS and name.endswith("]")
        target, key = (objects.setdefault(whole, {}), inner[:-1]) if nested else (fields, name)
        if key in target:
            raise InvalidInput(f"the form has {name[:60]!r} more than once; give it once.")
        target[key] = value
    fields = with_numbers(fields, CreateVideo)
    for name in (*LISTS, *OBJECTS):
        if name in fields:
            fields[name] = parse_json(fields[name].encode(errors="replace"))
    for name, found in columns.items():
        fields.setdefault(name, rows(name, found))
    for name, given in objects.items():
        fields.setdefault(name, with_numbers(given, OBJECTS[name]))
    return fields


def with_numbers(fields: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A form's fields, with numbers parsed where the model has numbers."""
    found = dict(fields)
    for name in fields.keys() & model.model_fields.keys():
        kind = model.model_fields[name].annotation
        kinds = [
            get_args(one)[0] if get_origin(one) is Annotated else one for one in get_args(kind) or (kind,)
        ]
        if int in kinds or float in kinds:
            found[name] = number(fields[name], whole=float not in kinds)
    return found


def number(text: str, *, whole: bool) -> int | float | str:
    """The number in a form's text; the text itself if it is none (validation then names the field)."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text


def rows(name: str, columns: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Entries of a list from the values of each field. Raises InvalidInput if the numbers of values differ."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise InvalidInput(
            f"{name}: the entries of a form have different fields; give all the same ones, or send `{name}` as JSON text."
        )
    entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [with_numbers(entry, LISTS[name]) for entry in entries]


def body_of(model: type[BaseModel], *kinds: str) -> dict[str, Any]:
    """The OpenAPI description of a route's body; the route itself reads the body."""
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, schema)}}


def schemas_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schemas of the model and of those it refers to, by name, for OpenAPI's components."""
    schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), model.__name__: schema}
