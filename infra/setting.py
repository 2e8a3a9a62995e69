"""Configuration fields that carry what their command-line options need (motiondirector/options.py)."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from infra.errors import InvalidInput

Config = TypeVar("Config", bound=BaseModel)


def setting(
    default: Any,
    panel: str,
    description: str,
    *,
    option: str = "",
    metavar: str = "",
    shown: str = "",
    **bounds: Any,
) -> Any:
    """A pydantic field that is also an option of a command.

    Args:
        panel: the option's group in the help.
        description: why it exists; the option's help.
        option: its name on the command line, if it differs from the field's, such as for one value of a list. A flag
            with such a name has no `--no-` form.
        metavar: the placeholder for its value in the help. The option then passes the text on unparsed, for
            a field that also reads words.
        shown: what the help shows as the default of a setting whose default is None or empty.
        bounds: of `pydantic.Field`: ge, gt, le, lt.
    """
    extra = {"panel": panel, "option": option, "metavar": metavar, "shown": shown}
    return Field(
        default,
        description=description,
        json_schema_extra={key: value for key, value in extra.items() if value},
        **bounds,
    )


def option_name(config: type[BaseModel], name: str) -> str:
    """The option name of a field, such as --warm-size for `warm_sizes`."""
    field = config.model_fields.get(name)
    extra = field.json_schema_extra if field else None
    given = extra.get("option") if isinstance(extra, dict) else None
    return str(given or "--" + name.replace("_", "-"))


def configured(config: type[Config], settings: dict[str, Any]) -> Config:
    """A configuration from a user's options. Raises InvalidInput naming the first wrong option."""
    try:
        return config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # it is about several options together
            raise InvalidInput(f"{reason}.") from None
        option = option_name(config, str(first["loc"][0]))
        given = "" if "secret" in option else f" {first['input']!r}"
        raise InvalidInput(f"{option}{given}: {reason}.") from None
