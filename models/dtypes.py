"""Names of a foundation's precision, the same in every command, settings file and configuration.

The names are fp32, bf16 and fp16; torch's float32, bfloat16 and float16 are accepted as synonyms.
Imports no torch, because the command line reads this.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from infra.errors import UserError

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # name -> torch's name
TRAINED = ("fp32", "bf16")  # precisions in which adapters are trained


def short_dtype(value: Any) -> Any:
    """`float32` or `torch.float32` -> `fp32` and so on. Other values are returned as they are."""
    if not isinstance(value, str):
        return value
    name = value.removeprefix("torch.")
    return next((short for short, long in DTYPES.items() if long == name), value)


def parse_dtype(text: str) -> str:
    """The name of a precision, given in short or as torch's name. Raises UserError."""
    name = str(short_dtype(text))
    if name not in DTYPES:
        raise UserError(
            f"dtype {text!r} is not known; expected one of {', '.join(DTYPES)} (or {', '.join(DTYPES.values())})."
        )
    return name


# Fields of configurations.
Dtype = Annotated[Literal["fp32", "bf16", "fp16"], BeforeValidator(short_dtype)]
TrainingDtype = Annotated[Literal["fp32", "bf16"], BeforeValidator(short_dtype)]
