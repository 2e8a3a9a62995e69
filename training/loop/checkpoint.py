"""The state of a training between two steps: adapters, optimizer and position, in one file of tensors and JSON.

There is no random state: every draw is a function of (seed, concept, step, rank), so the position suffices.

    <path>/<number>/<layer>/A|B             the slots (only B at rank `full`); slots are numbered as in a bank for
                                            this concept alone, wherever they were in a pack's bank
    <path>/<number>/<layer>/A|B/<moment>    AdamW's moments
    generated                               latents [N, C, F, H, W] of generated references (generated.py), once they exist
    metadata `position`: JSON               `step` (steps done); for a run, also its data, workers and metrics

A batch keeps one such object per concept. A run's checkpoint is a folder with `state.safetensors`. At ZeRO 0
any number of workers can continue from it. At ZeRO 1-3 the moments are in DeepSpeed's own shards beside it
(`zero/`), and only the same number of workers can continue. Earlier releases wrote a run's slots and moments
into two files, which can still be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from infra.errors import UserError
from infra.storage.stored import parse, parse_object
from models.lora.bank import AdapterBank
from models.lora.routing import LoraPath
from models.lora.slots import LayerTensors, with_identity
from training.loop.optim import SlotAdamW

STATE = "state.safetensors"
EARLIER = ("adapters.safetensors", "optimizer.safetensors")
GENERATED = "generated"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter


@dataclass(frozen=True)
class Position:
    """The required fields of every position."""

    step: Annotated[int, Field(ge=0)]  # steps done


@dataclass(frozen=True)
class RunPosition(Position):
    """The required fields of the position in a run's checkpoint."""

    workers: Annotated[int, Field(ge=1)]
    zero: Annotated[int, Field(ge=0, le=3)]


@dataclass(frozen=True)
class MemberState:
    """A member between two steps: all that is needed to continue with the same numbers."""

    step: int  # steps done
    tensors: dict[str, Tensor] = field(repr=False)  # on the CPU
    extra: dict[str, Any] = field(default_factory=dict)  # JSON: the other fields of the position

    @property
    def position(self) -> dict[str, Any]:
        """`step` and the other fields."""
        return {**self.extra, "step": self.step}

    def slot(self, path: LoraPath, number: int) -> dict[str, Tensor]:
        """The tensors of one slot, as returned by `slot_state`."""
        prefix = f"{path}/{number}/"
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def adapter(self, path: LoraPath) -> LayerTensors:
        """The adapter of a path's first slot, as it was learned: {layer: (A [rank, in], B [out, rank])}."""
        return _adapter(self.slot(path, 1))

    def encode(self) -> bytes:
        """A safetensors file."""
        return save(self.tensors, metadata=self._metadata())

    @classmethod
    def decode(cls, data: bytes) -> MemberState:
        """From the result of `encode`. Raises ValueError, KeyError, TypeError or SafetensorError for other data."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        position = header["__metadata__"]["position"]
        return cls(parse(Position, position).step, load(data), json.loads(position))

    def write(self, folder: Path) -> None:
        """Write the state into the folder of a run's checkpoint."""
        path = folder / STATE
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(self.tensors, temporary, metadata=self._metadata())
        os.replace(temporary, path)

    @classmethod
    def read(cls, folder: Path, *, moments: bool = True) -> MemberState:
        """Read the state in a run's checkpoint. Raises DamagedData if its position cannot be read.

        Args:
            moments: False leaves out AdamW's moments, which only training needs.
        """
        files = [folder / name for name in ((STATE,) if (folder / STATE).exists() else EARLIER)]
        tensors: dict[str, Tensor] = {}
        for path in files:
            if path != files[0] and not path.exists():  # at ZeRO 1-3
                continue
            with safe_open(path, "pt") as file:
                if path == files[0]:
                    position = (file.metadata() or {}).get("position", "")
                keys = [k for k in file.keys() if moments or k.split("/")[-1] not in MOMENTS]  # noqa: SIM118
                tensors |= {key: file.get_tensor(key) for key in keys}
        remedy = "give another --run-dir, or delete this checkpoint to continue from the previous one"
        step = parse_object(
            RunPosition, position, f"the position in {files[0].name} of {folder}", remedy
        ).step
        return cls(step, tensors, json.loads(position))

    def check_workers(self, zero: int, workers: int) -> None:
        """Raises UserError if a run cannot continue: another ZeRO stage, or another number of workers at stages 1-3."""
        before = self.position
        if before["zero"] != zero:
            raise UserError(
                f"the run's checkpoint was written at ZeRO stage {before['zero']}, not {zero}; continue with "
                f"--zero {before['zero']} or start a new run with another --run-dir."
            )
        if zero and before["workers"] != workers:
            raise UserError(
                f"the run's checkpoint was written by {before['workers']} workers at ZeRO stage {zero}, so {workers} workers "
                f"cannot continue it; use --workers {before['workers']} (only --zero 0 continues with any number)."
            )

    def _metadata(self) -> dict[str, str]:
        return {"position": json.dumps(self.position, sort_keys=True)}


def _adapter(slot: Mapping[str, Tensor]) -> LayerTensors:
    layers = [key[:-2] for key in slot if key.endswith("/B")]
    return {
        layer: (slot[f"{layer}/A"], slot[f"{layer}/B"])
        if f"{layer}/A" in slot
        else with_identity(slot[f"{layer}/B"])
        for layer in layers
    }


def slot_state(bank: AdapterBank, optimizer: SlotAdamW, path: LoraPath, slot: int) -> dict[str, Tensor]:
    """A copy of a slot's weights and moments: `<layer>/A|B` and `<layer>/A|B/<moment>`, on the CPU."""
    found = {}
    for name, parameter in bank.named_slot_parameters(path, slot):
        found[name] = parameter.detach().to("cpu", copy=True).contiguous()
        for moment, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{moment}"] = torch.as_tensor(value).detach().to("cpu", copy=True)
    return found


def put_slot_state(
    bank: AdapterBank, optimizer: SlotAdamW, path: LoraPath, slot: int, state: Mapping[str, Tensor]
) -> None:
    """Put a result of `slot_state` into a slot of a bank with the same layers."""
    with torch.no_grad():
        for name, parameter in bank.named_slot_parameters(path, slot):
            parameter.copy_(state[name])
            put_moments(
                optimizer, parameter, {m: state[f"{name}/{m}"] for m in MOMENTS if f"{name}/{m}" in state}
            )


def put_moments(optimizer: SlotAdamW, parameter: torch.nn.Parameter, moments: Mapping[str, Tensor]) -> None:
    """Set AdamW's state of a parameter. Without moments, it is as if the parameter was never stepped."""
    optimizer.state.pop(parameter, None)
    if moments:
        optimizer.state[parameter] = {
            name: value.clone() if name == "step" else value.to(parameter.device, copy=True)
            for name, value in moments.items()
        }
