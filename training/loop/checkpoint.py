"""The state of a training between two steps: adapters, optimizer and position, in one file of tensors and JSON.

There is no random state to keep: every draw is a function of (seed, concept, step, rank), so the position is it.

    <path>/<number>/<layer>/A|B             the slots (B alone at rank `full`); the number is that of the slot in a bank for
                                            this concept alone, wherever in a bank it was
    <path>/<number>/<layer>/A|B/<moment>    AdamW's moments
    metadata `position`: JSON               `step` (steps done), and of a run how it was trained and what it came to

A batch keeps one such object for each concept. A run's checkpoint is a folder with `state.safetensors`. At ZeRO 0 any number of
workers continues from it; at ZeRO 1-3 the moments are in DeepSpeed's own shards beside it (`zero/`), which only as many workers
continue from. Earlier versions wrote a run's slots and moments into two files, which are read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
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
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter


@dataclass(frozen=True)
class Position:
    """What every position says."""

    step: Annotated[int, Field(ge=0)]  # steps done


@dataclass(frozen=True)
class RunPosition(Position):
    """What that of a run's checkpoint says at least."""

    workers: Annotated[int, Field(ge=1)]
    zero: Annotated[int, Field(ge=0, le=3)]


@dataclass(frozen=True)
class MemberState:
    """A member between two steps: all that it takes to go on with the same numbers."""

    step: int  # steps done
    tensors: dict[str, Tensor] = field(repr=False)  # on the CPU
    told: dict[str, Any] = field(default_factory=dict)  # JSON-able: what else the position says

    @property
    def position(self) -> dict[str, Any]:
        """`step`, and what else there is to say."""
        return {**self.told, "step": self.step}

    def slot(self, path: LoraPath, number: int) -> dict[str, Tensor]:
        """The tensors of one slot, as `slot_state` gives them."""
        prefix = f"{path}/{number}/"
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def adapters(self, paths: Iterable[LoraPath]) -> dict[LoraPath, LayerTensors]:
        """The adapter of each path's first slot: {layer: (A [rank, in], B [out, rank])}."""
        return {path: _adapter(self.slot(path, 1)) for path in paths}

    def encode(self) -> bytes:
        """A safetensors file."""
        return save(self.tensors, metadata=self._metadata())

    @classmethod
    def decode(cls, data: bytes) -> MemberState:
        """From such a file. Raises ValueError, KeyError, TypeError or SafetensorError when it is none."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        said = header["__metadata__"]["position"]
        return cls(parse(Position, said).step, load(data), json.loads(said))

    def write(self, folder: Path) -> None:
        """Into a run's checkpoint."""
        path = folder / STATE
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(self.tensors, temporary, metadata=self._metadata())
        os.replace(temporary, path)

    @classmethod
    def read(cls, folder: Path, *, moments: bool = True) -> MemberState:
        """Of a run's checkpoint. Raises DamagedData when it does not say its position.

        Args:
            moments: False leaves out what only training needs.
        """
        files = [folder / name for name in ((STATE,) if (folder / STATE).exists() else EARLIER)]
        tensors: dict[str, Tensor] = {}
        for path in files:
            if path != files[0] and not path.exists():  # at ZeRO 1-3
                continue
            with safe_open(path, "pt") as file:
                if path == files[0]:
                    said = (file.metadata() or {}).get("position", "")
                keys = [k for k in file.keys() if moments or k.split("/")[-1] not in MOMENTS]  # noqa: SIM118
                tensors |= {key: file.get_tensor(key) for key in keys}
        remedy = "give another --run-dir, or delete this checkpoint to continue from the one before"
        step = parse_object(RunPosition, said, f"the position in {files[0].name} of {folder}", remedy).step
        return cls(step, tensors, json.loads(said))

    def check_workers(self, zero: int, workers: int) -> None:
        """Raises UserError where workers of a run cannot go on: written at another ZeRO stage, or at 1-3 by another number."""
        before = self.position
        if before["zero"] != zero:
            raise UserError(
                f"the run's checkpoint was written at ZeRO stage {before['zero']}, not {zero}; continue with "
                f"--zero {before['zero']} or start a new run with another --run-dir."
            )
        if zero and before["workers"] != workers:
            raise UserError(
                f"the run's checkpoint was written by {before['workers']} workers at ZeRO stage {zero}, which {workers} "
                f"workers cannot continue; give --workers {before['workers']} (only --zero 0 continues with any number)."
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
    """A copy of all that a slot's training has come to: `<layer>/A|B` and `<layer>/A|B/<moment>`, on the CPU."""
    found = {}
    for name, parameter in bank.named_slot_parameters(path, slot):
        found[name] = parameter.detach().to("cpu", copy=True).contiguous()
        for moment, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{moment}"] = torch.as_tensor(value).detach().to("cpu", copy=True)
    return found


def put_slot_state(
    bank: AdapterBank, optimizer: SlotAdamW, path: LoraPath, slot: int, state: Mapping[str, Tensor]
) -> None:
    """What `slot_state` gave, into a slot of a bank like the one it is from."""
    with torch.no_grad():
        for name, parameter in bank.named_slot_parameters(path, slot):
            parameter.copy_(state[name])
            put_moments(
                optimizer, parameter, {m: state[f"{name}/{m}"] for m in MOMENTS if f"{name}/{m}" in state}
            )


def put_moments(optimizer: SlotAdamW, parameter: torch.nn.Parameter, moments: Mapping[str, Tensor]) -> None:
    """AdamW's state of a parameter; without moments that of one that was never stepped."""
    optimizer.state.pop(parameter, None)
    if moments:
        optimizer.state[parameter] = {
            name: value.clone() if name == "step" else value.to(parameter.device, copy=True)
            for name, value in moments.items()
        }
