"""Makes a command's options from the fields of a configuration class, with their descriptions, panels and bounds.

    def train(ctx, concept, config: ConfigFile = None, **settings): ...
    add_command(app, "train", train, TrainConfig)

The command gets an option for each field made by `infra.setting.setting`, and passes on the values that were given on
the command line or in the `--config` file. The configuration class checks them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def option_type(field: FieldInfo) -> Any:
    """The type that Typer parses for a setting."""
    annotation: Any = field.annotation
    if _extra(field).get("metavar"):
        return str
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    if type(None) in typing.get_args(annotation) and len(kinds) == 1:  # X | None
        annotation = kinds[0]
        kinds = list(typing.get_args(annotation))
    if typing.get_origin(annotation) is Literal:
        return annotation if isinstance(kinds[0], str) else type(kinds[0])
    if typing.get_origin(annotation) in (tuple, list, dict):
        return list[str]
    if kinds:  # int | str
        return str if str in kinds else kinds[0]
    return annotation


def help_of(field: FieldInfo) -> str:
    """The description of a setting, with its bounds."""
    bounds = [
        f"{words} {value}"
        for name, words in BOUNDS.items()
        for constraint in field.metadata
        if (value := getattr(constraint, name, None)) is not None
    ]
    sentence = ", ".join(bounds)
    return f"{field.description} {sentence[0].upper()}{sentence[1:]}." if bounds else field.description or ""


def option_for(config: type[BaseModel], name: str) -> Any:
    """Typer's option for a field of a configuration class, shown in the field's panel of the help."""
    field = config.model_fields[name]
    extra = _extra(field)
    default = field.default
    return typer.Option(
        *([extra["option"]] if "option" in extra else []),
        help=help_of(field),
        metavar=extra.get("metavar"),
        show_default=extra.get("shown") or (str(default) if default not in (None, (), [], {}) else False),
        rich_help_panel=extra["panel"],
    )


def options(config: type[BaseModel]) -> list[inspect.Parameter]:
    """One option for each setting of a configuration class; None if it is not given."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[option_type(field) | None, option_for(config, name)],
        )
        for name, field in config.model_fields.items()
        if "panel" in _extra(field)
    ]


def add_command(app: typer.Typer, name: str, function: Callable[..., None], config: type[BaseModel]) -> None:
    """Add a command with the parameters of `function` and the settings of `config` in place of its `**settings`."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters = [*own, *options(config)]
    names = {parameter.name for parameter in own}

    def command(**values: Any) -> None:
        given = {key: value for key, value in values.items() if key in names or value not in (None, [], ())}
        function(**given)

    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    app.command(name)(command)


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
