"""A run's state between two steps: adapters, optimizer and position, in files that hold tensors and JSON only.

There is no random state to keep: every draw is a function of (seed, concept, step, rank), so the position is it.

At ZeRO 0 rank 0 writes everything and any number of workers continues from it:

    adapters.safetensors    the slots, `<path>/<slot>/<layer>/A|B` (B alone at rank `full`); metadata `position`: JSON
    optimizer.safetensors   AdamW's moments, `<path>/<slot>/<layer>/A|B/<moment>`

At ZeRO 1-3 the optimizer is in DeepSpeed's own shards (folder `zero/`), which only as many workers continue from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import UserError
from infra.stored import parse_object
from models.bank import AdapterBank
from models.lora_slots import with_identity
from models.routing import Path as AdapterPath
from training.engine import DeepSpeedEngine, Engine
from training.optim import SlotAdamW

ADAPTERS = "adapters.safetensors"
OPTIMIZER = "optimizer.safetensors"
ZERO = "zero"


MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter


def slot_state(bank: AdapterBank, optimizer: SlotAdamW, path: AdapterPath, slot: int) -> dict[str, Tensor]:
    """A copy of all that a slot's training has come to: `<layer>/A|B` and `<layer>/A|B/<moment>`, on the CPU."""
    found = {}
    for name, parameter in bank.named_slot_parameters(path, slot):
        found[name] = parameter.detach().to("cpu", copy=True)
        for moment, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{moment}"] = torch.as_tensor(value).detach().to("cpu", copy=True)
    return found


def put_slot_state(
    bank: AdapterBank, optimizer: SlotAdamW, path: AdapterPath, slot: int, state: Mapping[str, Tensor]
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


def _named(bank: AdapterBank) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every parameter of the bank with its key."""
    for path, slots in bank.slots.items():
        for slot in range(1, slots + 1):
            for name, parameter in bank.named_slot_parameters(path, slot):
                yield f"{path}/{slot}/{name}", parameter


def save(folder: Path, engine: Engine, position: dict[str, Any]) -> None:
    """Write this rank's part of a checkpoint into `folder`; every rank calls it.

    Args:
        position: JSON-able; holds at least `step` (steps done), `workers` and `zero`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bank = engine.module.bank
    if isinstance(engine, DeepSpeedEngine) and engine.module.config.zero:
        engine.engine.save_checkpoint(str(folder / ZERO), tag="state", exclude_frozen_parameters=True)
    elif engine.place.rank == 0:
        _write(folder / OPTIMIZER, dict(_moments(bank, engine.optimizer)), {})
    if engine.place.rank == 0:
        adapters = {key: p.detach().cpu().contiguous() for key, p in _named(bank)}
        _write(folder / ADAPTERS, adapters, {"position": json.dumps(position, sort_keys=True)})


def _moments(bank: AdapterBank, optimizer: SlotAdamW) -> Iterator[tuple[str, Tensor]]:
    for key, parameter in _named(bank):
        for moment, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}/{moment}", torch.as_tensor(value).detach().cpu().contiguous()


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, path)


@dataclass(frozen=True)
class Position:
    """What every position says."""

    step: Annotated[int, Field(ge=0)]  # steps done


@dataclass(frozen=True)
class RunPosition(Position):
    """What that of a run's checkpoint says at least."""

    workers: Annotated[int, Field(ge=1)]
    zero: Annotated[int, Field(ge=0, le=3)]


def read_position(folder: Path) -> dict[str, Any]:
    """The position a checkpoint was written at. Raises DamagedData when it says none."""
    with safe_open(folder / ADAPTERS, "pt") as file:
        said = (file.metadata() or {}).get("position", "")
    remedy = "give another --run-dir, or delete this checkpoint to continue from the one before"
    parse_object(RunPosition, said, f"the position in {ADAPTERS} of {folder}", remedy)
    return json.loads(said)


def restore(folder: Path, engine: Engine) -> dict[str, Any]:
    """Put the state of a checkpoint into the engine, on every rank. Returns its position.

    Raises:
        UserError: written at another ZeRO stage, or at ZeRO 1-3 by another number of workers.
    """
    position = read_position(folder)
    bank, zero, workers = engine.module.bank, engine.module.config.zero, engine.place.workers
    if position["zero"] != zero:
        raise UserError(
            f"the run's checkpoint was written at ZeRO stage {position['zero']}, not {zero}; continue with "
            f"--zero {position['zero']} or start a new run with another --run-dir."
        )
    if zero and position["workers"] != workers:
        raise UserError(
            f"the run's checkpoint was written by {position['workers']} workers at ZeRO stage {zero}, which {workers} "
            f"workers cannot continue; give --workers {position['workers']} (only --zero 0 continues with any number)."
        )
    with torch.no_grad(), safe_open(folder / ADAPTERS, "pt") as file:
        for key, parameter in _named(bank):
            parameter.copy_(file.get_tensor(key))
    if zero:
        assert isinstance(engine, DeepSpeedEngine)
        engine.engine.load_checkpoint(str(folder / ZERO), tag="state", load_module_strict=False)
        return position
    optimizer = engine.optimizer
    with safe_open(folder / OPTIMIZER, "pt") as file:
        stored = set(file.keys())
        for key, parameter in _named(bank):
            found = {m: file.get_tensor(f"{key}/{m}") for m in MOMENTS if f"{key}/{m}" in stored}
            put_moments(optimizer, parameter, found)
    return position


def read_slot(folder: Path, path: str, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
    """One slot's adapter from a checkpoint: {layer: (A [rank, in], B [out, rank])}."""
    prefix = f"{path}/{slot}/"
    with safe_open(folder / ADAPTERS, "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    layers = [key[len(prefix) : -2] for key in stored if key.endswith("/B")]
    return {
        layer: (stored[f"{prefix}{layer}/A"], stored[f"{prefix}{layer}/B"])
        if f"{prefix}{layer}/A" in stored
        else with_identity(stored[f"{prefix}{layer}/B"])
        for layer in layers
    }
