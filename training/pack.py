"""Many concepts in one forward: each trains as if it were alone, and they pay for one pass through the base.

    with Pack(foundation, group_key(foundation.fingerprint, config), Capacity(members=8, spatial=16)) as pack:
        pack.admit(Member("orbit", "orbit", config, clips))
        while pack.members:
            for event in pack.step():            # Stepped, Ended or Failed, of each member
                ...                              # publish, checkpoint, admit others where there is room

A member has its own slots of the bank, losses, learning rate, schedule, clipping, step count and draws, so its
adapter is the one that `training.local.train_local` gives, but for the rounding of larger batches. Members come and
go between two steps. One whose loss is no number leaves with a reason; no gradient crosses from its samples to its
neighbours' slots.

A step is the same on every worker of a data-parallel engine, as long as all admit the same members in one order.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from infra.errors import InvalidInput, Unavailable, UserError
from infra.stored import parse
from models.foundation import Bucket, Foundation
from models.routing import PATHS
from models.routing import Path as AdapterPath
from training.adapters import PathTensors
from training.checkpoint import Position, put_moments, put_slot_state, slot_state
from training.config import TrainConfig, sampled_paths
from training.draws import Place
from training.engine import Engine, PlainEngine, group_settings, make_optimizer, set_active
from training.group import GroupKey, group_key
from training.loop import StepReport, active_slots, bank_options, bank_slots, diverged, factor_of, sample_of
from training.optim import SlotAdamW
from training.step import DualStep, OwnSettings, Sample, TrainingClip, collate


@dataclass(frozen=True)
class Capacity:
    """How much fits a pack: members (each has one temporal slot), and spatial slots, one for each of their clips."""

    members: int
    spatial: int


@dataclass(frozen=True)
class Member:
    """One concept to train."""

    name: str  # tells the members of a pack apart
    concept: str  # part of every draw
    config: TrainConfig  # resolved: its frames, height and width are set
    clips: Sequence[TrainingClip] = field(repr=False)

    def slots(self) -> dict[AdapterPath, int]:
        """How many slots of each path it takes."""
        return bank_slots(self.config, len(self.clips))


@dataclass(frozen=True)
class MemberState:
    """A member between two steps: all that it takes to go on with the same numbers.

    `tensors`: `<path>/<number>/<layer>/A|B`, and below it AdamW's moments; the number is that of the slot in a bank
    for this concept alone, as in a checkpoint of a run.
    """

    step: int  # steps done
    tensors: dict[str, Tensor] = field(repr=False)

    def encode(self) -> bytes:
        """A safetensors file."""
        return save(self.tensors, metadata={"position": json.dumps({"step": self.step})})

    @classmethod
    def decode(cls, data: bytes) -> MemberState:
        """From such a file. Raises ValueError, KeyError, TypeError or SafetensorError when it is none."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return cls(parse(Position, header["__metadata__"]["position"]).step, load(data))


@dataclass(frozen=True)
class Stepped:
    """A member did a step."""

    name: str
    report: StepReport


@dataclass(frozen=True)
class Ended:
    """A member did its last step and left."""

    name: str
    report: StepReport
    tensors: PathTensors = field(repr=False)  # the adapters that generation uses, on the CPU


@dataclass(frozen=True)
class Failed:
    """A member could not go on and left; nothing of the step was applied to it."""

    name: str
    step: int  # steps done before
    error: UserError


Event = Stepped | Ended | Failed


@dataclass
class _Seat:
    """A member in the pack: which slot of the pack's bank each of its own is, and where it stands."""

    member: Member
    slots: dict[AdapterPath, tuple[int, ...]]
    place: Place
    step: int = 0

    def slot(self, path: AdapterPath, own: int) -> int:
        """The pack's slot for the member's `own` (from 1; 0 stays the empty slot)."""
        return self.slots[path][own - 1] if own else 0


class Pack:
    """A trainable bank with room for several concepts, and the engine that steps them. A context manager.

    Outside the block the foundation is as it was found.

    `sound`: False when it is of no further use, because others that train it too (training/batch/team.py) are gone.

    Args:
        key: what its members share.
        capacity: of the bank.
        make_engine: from the step and the optimizer; `PlainEngine` is torch alone, in this process.
    """

    def __init__(
        self,
        foundation: Foundation,
        key: GroupKey,
        capacity: Capacity,
        *,
        make_engine: Callable[[DualStep, SlotAdamW], Engine] = PlainEngine,
    ) -> None:
        if key.zero and make_engine is PlainEngine:
            raise UserError(
                f"zero {key.zero} spreads a model over several workers, and this pack has one; set zero 0."
            )
        self.foundation, self.key, self.capacity = foundation, key, capacity
        self.sound = True
        self._make_engine = make_engine
        self._seats: dict[str, _Seat] = {}
        self._exit = ExitStack()
        self.engine: Engine

    def __enter__(self) -> Pack:
        config = self.key.config()
        slots: dict[AdapterPath, int] = {"spatial": self.capacity.spatial, "temporal": self.capacity.members}
        if not bank_slots(config, 1)["spatial"]:
            slots["spatial"] = 0
        with ExitStack() as entering:
            entering.enter_context(torch.enable_grad())
            options = {**bank_options(config, 1), "slots": slots}
            bank = entering.enter_context(self.foundation.passing_bank(**options))
            entering.enter_context(self.foundation.gradient_checkpointing(config.gradient_checkpointing))
            self.engine = self._make_engine(
                DualStep(self.foundation, config), make_optimizer(bank, config, 1)
            )
            self._exit = entering.pop_all()
        self._bank = bank
        self._free: dict[AdapterPath, set[int]] = {p: set(range(1, bank.slots[p] + 1)) for p in PATHS}
        self._groups: dict[tuple[AdapterPath, int], dict[str, Any]] = {
            (group["path"], group["slot"]): group for group in self.engine.optimizer.param_groups
        }
        return self

    def __exit__(self, *error: Any) -> None:
        self._seats.clear()
        self.engine.close()
        self._exit.__exit__(*error)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of those who train now, in the order they came."""
        return tuple(self._seats)

    def has_room(self, slots: Mapping[AdapterPath, int]) -> bool:
        """Whether so many slots of each path are free now (`Member.slots`, `training.loop.bank_slots`)."""
        return all(len(self._free[path]) >= count for path, count in slots.items())

    def admit(self, member: Member, state: MemberState | None = None) -> None:
        """Give a member its slots. It trains from the next step on, from its beginning or from `state`.

        Raises:
            UserError: a name that is taken, settings of another group, clips that cannot train, or no room (Unavailable).
        """
        if member.name in self._seats:
            raise UserError(f"{member.name} is in this pack; give each member a name of its own.")
        other = self.key.difference(group_key(self.foundation.fingerprint, member.config))
        if other is not None:
            raise UserError(f"{member.name} cannot train in this pack: {other}; put it into another.")
        self._check_clips(member)
        if not self.has_room(member.slots()):
            raise Unavailable(
                f"{member.name} needs {member.slots()} slots, free are { {p: len(f) for p, f in self._free.items()} }; "
                "wait until a member ends.",
                code="pack_full",
            )
        seat = _Seat(
            member,
            {path: tuple(sorted(self._free[path])[:count]) for path, count in member.slots().items()},
            replace(self.engine.place, batch_size=member.config.batch_size),
        )
        for path, number, slot in self._own(seat):
            self._groups[path, slot].update(group_settings(path, member.config, len(member.clips)))
            if state is None:
                self._bank.reset(path, slot, seed=member.config.seed, number=number)
            else:
                prefix = f"{path}/{number}/"
                own = {k.removeprefix(prefix): t for k, t in state.tensors.items() if k.startswith(prefix)}
                put_slot_state(self._bank, self.engine.optimizer, path, slot, own)
            self._free[path].discard(slot)
        seat.step = state.step if state is not None else 0
        self._seats[member.name] = seat

    def _check_clips(self, member: Member) -> None:
        """Raises InvalidInput ("invalid_latents") for clips that would spoil the step: named, before they do."""
        if not member.clips:
            raise InvalidInput(f"{member.name} has no clips; give at least one.", code="invalid_latents")
        key = self.key
        shape = self.foundation.latent_shape(Bucket(key.frames, key.height, key.width))
        for number, clip in enumerate(member.clips, 1):
            name = f"clip {getattr(clip, 'clip_id', '')[:12] or number} of {member.concept}"
            if tuple(clip.latents_CFHW.shape) != shape:
                raise InvalidInput(
                    f"{name} has latents {tuple(clip.latents_CFHW.shape)}, expected {shape} at {key.bucket}; prepare "
                    "it at that size.",
                    code="invalid_latents",
                )
            tensors = (clip.latents_CFHW, clip.frame_latents_FC1HW, clip.text_LD)
            if not all(torch.isfinite(tensor).all() for tensor in tensors):
                raise InvalidInput(
                    f"{name} has NaN or infinite latents or text; delete its cached latents and prepare it again.",
                    code="invalid_latents",
                )

    def leave(self, name: str) -> None:
        """Take a member out and free its slots: cancelled, or moved elsewhere."""
        self._vacate(name)

    def _vacate(self, name: str) -> None:
        seat = self._seats.pop(name)
        for path, _, slot in self._own(seat):
            for parameter in self._bank.slot_parameters(path, slot):
                put_moments(self.engine.optimizer, parameter, {})
                parameter.grad = None
            self._bank.clear(path, slot)
            self._groups[path, slot]["active"] = False
            self._free[path].add(slot)

    def state(self, name: str) -> MemberState:
        """A copy of where a member stands, for `admit` here or elsewhere."""
        seat = self._seats[name]
        tensors = {
            f"{path}/{number}/{key}": tensor
            for path, number, slot in self._own(seat)
            for key, tensor in slot_state(self._bank, self.engine.optimizer, path, slot).items()
        }
        return MemberState(seat.step, tensors)

    def tensors(self, name: str) -> PathTensors:
        """A member's adapters as they are now, those that generation uses; a copy on the CPU."""
        seat = self._seats[name]
        return {
            path: self._bank.extract(path, seat.slot(path, 1)) for path in sampled_paths(seat.member.config)
        }

    def step(self) -> list[Event]:
        """One step of every member. Those who did their last, or whose loss is no number, have left when it returns.

        An exception (memory that does not suffice, a device that is lost) leaves the pack of no further use: go on
        from the members' last states in a new one.
        """
        began = time.perf_counter()
        seats = list(self._seats.values())
        if not seats:
            return []
        engine, accumulation = self.engine, self.key.gradient_accumulation
        sums = torch.zeros(len(seats), 2, device=self.foundation.device)
        for micro in range(accumulation):
            samples = [self._samples(seat, micro) for seat in seats]
            own = OwnSettings.of([s.member.config for s, of in zip(seats, samples, strict=True) for _ in of])
            batch = collate([sample for of in samples for sample in of], self.foundation.device, own)
            losses_2B = torch.stack(engine.losses(batch))
            # Each member's mean, taken apart: one that is no number must not reach another's.
            parts = losses_2B.split([len(of) for of in samples], 1)
            engine.backward(torch.stack([part.sum(0).mean() for part in parts]).sum())
            sums += torch.stack([part.detach().mean(1) for part in parts])
            if micro + 1 < accumulation:
                engine.step()
        losses = engine.mean(sums / accumulation).tolist()
        sound = [math.isfinite(spatial + temporal) for spatial, temporal in losses]
        set_active(engine.optimizer, self._factors([s for s, ok in zip(seats, sound, strict=True) if ok]))
        engine.step()
        seconds = time.perf_counter() - began
        return [
            self._after(seat, spatial, temporal, ok, seconds)
            for seat, (spatial, temporal), ok in zip(seats, losses, sound, strict=True)
        ]

    def _samples(self, seat: _Seat, micro: int) -> list[Sample]:
        """A member's samples of one forward, in the pack's slots."""
        member, place = seat.member, seat.place
        return [
            replace(
                sample,
                spatial_slot=seat.slot("spatial", sample.spatial_slot),
                temporal_slot=seat.slot("temporal", sample.temporal_slot),
            )
            for index in place.indices(micro)
            for sample in [
                sample_of(member.config, member.concept, seat.step, index, member.clips, place.global_batch)
            ]
        ]

    def _factors(self, seats: Sequence[_Seat]) -> dict[tuple[str, int], float]:
        """The slots that this step trains, with the factor of their members' schedules."""
        factors: dict[tuple[str, int], float] = {}
        for seat in seats:
            config, clips = seat.member.config, len(seat.member.clips)
            for path, own in active_slots(config, seat.member.concept, seat.step, clips, seat.place):
                factors[path, seat.slot(path, own)] = factor_of(config, seat.step)
        return factors

    def _after(self, seat: _Seat, spatial: float, temporal: float, sound: bool, seconds: float) -> Event:
        """Count a member's step; let it go when it was the last, or none."""
        member, config = seat.member, seat.member.config
        if not sound:
            self._vacate(member.name)
            error = diverged(config, member.concept, seat.step, spatial + temporal)
            return Failed(member.name, seat.step, error)
        report = StepReport(
            step=seat.step + 1,
            steps=config.steps,
            loss=spatial + temporal,
            spatial_loss=spatial,
            temporal_loss=temporal,
            learning_rate=config.learning_rate * factor_of(config, seat.step),
            seconds=seconds,
        )
        seat.step += 1
        if seat.step < config.steps:
            return Stepped(member.name, report)
        tensors = self.tensors(member.name)
        self._vacate(member.name)
        return Ended(member.name, report, tensors)

    def _own(self, seat: _Seat) -> list[tuple[AdapterPath, int, int]]:
        """(path, number among the member's own, slot of the bank) of every slot of a member."""
        return [
            (path, number, slot) for path, slots in seat.slots.items() for number, slot in enumerate(slots, 1)
        ]
