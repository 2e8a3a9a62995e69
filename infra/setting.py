"""Configuration fields that carry what their command-line options need (motiondirector/options.py)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


def setting(
    default: Any, panel: str, description: str, *, option: str = "", metavar: str = "", **bounds: Any
) -> Any:
    """A pydantic field that is also an option of a command.

    Args:
        panel: the option's group in the help.
        description: why it exists; the option's help.
        option: its name on the command line, if it differs from the field's, such as for one value of a list.
        metavar: the placeholder for its value in the help. The option then passes the text on unparsed, for
            a field that also reads words.
        bounds: of `pydantic.Field`: ge, gt, le, lt.
    """
    extra = {"panel": panel, "option": option, "metavar": metavar}
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
