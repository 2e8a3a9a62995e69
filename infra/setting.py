"""One setting of a configuration class, with all that its option on the command line needs (motiondirector/options.py)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


def setting(
    default: Any, panel: str, description: str, *, option: str = "", metavar: str = "", **bounds: Any
) -> Any:
    """A pydantic field that is an option of a command.

    Args:
        panel: of the help.
        description: why it exists; the option's help.
        option: its name on the command line, where it is not the field's own, such as one value of a list.
        metavar: what the help shows as its value. The option then hands on the text as it was given, for a field that
            reads words of its own.
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
    """The option of a field, such as --warm-size of `warm_sizes`."""
    field = config.model_fields.get(name)
    extra = field.json_schema_extra if field else None
    given = extra.get("option") if isinstance(extra, dict) else None
    return str(given or "--" + name.replace("_", "-"))
