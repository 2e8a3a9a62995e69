"""The training loop, for one concept or for several in one forward.

    with Pack(foundation, group_key(foundation.fingerprint, config), Capacity(members=8, spatial=16)) as pack:
        pack.admit(Member("orbit", "orbit", config, clips))
        while pack.members:
            for event in pack.step():            # Stepped, Ended or Failed, of each member
                ...                              # publish, checkpoint, admit others where there is room

Each member has its own slots of the bank, losses, learning rate, schedule, clipping, step count and draws. So it trains
as it would alone (`PackOfOne`), except for the rounding of larger batches, and all members share the cost of the base.
Members join and leave between steps. A member whose loss is not finite leaves with an error; no gradient of its samples
reaches its neighbours' slots.

A step is the same on every worker of a data-parallel engine, as long as all admit the same members in one order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from infra.errors import Unavailable, UserError
from models.foundations.base import Foundation
from models.lora.bank import AdapterBank
from models.lora.routing import PATHS, LoraPath
from training.adapters import PathTensors
from training.config import sampled_paths
from training.loop.checkpoint import MemberState, put_moments, put_slot_state, slot_state
from training.loop.draws import Place
from training.loop.engine import Engine, group_settings, make_optimizer, set_active
from training.loop.group import GroupKey, group_key
from training.loop.member import Member, bank_options, has_spatial
from training.loop.optim import SlotAdamW
from training.loop.report import StepReport
from training.loop.step import DualStep, OwnSettings, Sample, collate


@dataclass(frozen=True)
class Capacity:
    """How much fits a pack: members (each has one temporal slot), and spatial slots, one for each of their clips."""

    members: int
    spatial: int


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
    slots: dict[LoraPath, tuple[int, ...]]
    step: int = 0  # steps done

    def slot(self, path: LoraPath, own: int) -> int:
        """The pack's slot for the member's `own` (from 1; 0 stays the empty slot)."""
        return self.slots[path][own - 1] if own else 0


class Pack:
    """A trainable bank with room for several concepts, and the engine that steps them. A context manager.

    Outside the block the foundation is as it was found.

    `sound`: False when it is of no further use, because others that train it too (training/batch/lane/team.py) are gone.

    Args:
        key: what its members share.
        capacity: of the bank.
        make_engine: from the step and the optimizer; `Engine` is torch alone, in this process.
    """

    def __init__(
        self,
        foundation: Foundation,
        key: GroupKey,
        capacity: Capacity,
        *,
        make_engine: Callable[[DualStep, SlotAdamW], Engine] = Engine,
    ) -> None:
        if key.zero and make_engine is Engine:
            raise UserError(
                f"zero {key.zero} spreads a model over several workers, and this pack has one; set zero 0."
            )
        self.foundation, self.key, self.capacity = foundation, key, capacity
        self.sound = True
        self._make_engine = make_engine
        self._seats: dict[str, _Seat] = {}
        self._exit = ExitStack()
        self.engine: Engine

    def __enter__(self) -> Self:
        config = self.key.config()
        spatial = self.capacity.spatial if has_spatial(config) else 0
        slots: dict[LoraPath, int] = {"spatial": spatial, "temporal": self.capacity.members}
        with ExitStack() as entering:
            entering.enter_context(torch.enable_grad())
            options = {**bank_options(config, 1), "slots": slots}
            self._bank: AdapterBank = entering.enter_context(self.foundation.temporary_bank(**options))
            entering.enter_context(self.foundation.gradient_checkpointing(config.gradient_checkpointing))
            self._optimizer = make_optimizer(self._bank, config, 1)
            self._free: dict[LoraPath, set[int]] = {
                path: set(range(1, self._bank.slots[path] + 1)) for path in PATHS
            }
            self._groups: dict[tuple[LoraPath, int], dict[str, Any]] = {
                (group["path"], group["slot"]): group for group in self._optimizer.param_groups
            }
            self._admit_first()
            self.engine = self._make_engine(DualStep(self.foundation, config), self._optimizer)
            self._exit = entering.pop_all()
        return self

    def _admit_first(self) -> None:
        """Admit the members that need their slots before the engine is created; here none."""

    def __exit__(self, *error: Any) -> None:
        self._seats.clear()
        self.engine.close()
        self._exit.__exit__(*error)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of those who train now, in the order they came."""
        return tuple(self._seats)

    def has_room(self, slots: Mapping[LoraPath, int]) -> bool:
        """Whether so many slots of each path are free now (`Member.slots`, `member.bank_slots`)."""
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
        member.check_clips(self.foundation, self.key.bucket)
        if not self.has_room(member.slots()):
            raise Unavailable(
                f"{member.name} needs {member.slots()} slots, free are { {p: len(f) for p, f in self._free.items()} }; "
                "wait until a member ends.",
                code="pack_full",
            )
        taken = {path: tuple(sorted(self._free[path])[:count]) for path, count in member.slots().items()}
        seat = _Seat(member, taken, state.step if state is not None else 0)
        for path, number, slot in self._own(seat):
            self._groups[path, slot].update(group_settings(path, member.config, len(member.clips)))
            if state is None:
                self._bank.reset(path, slot, seed=member.config.seed, number=number)
            else:
                put_slot_state(self._bank, self._optimizer, path, slot, state.slot(path, number))
            self._free[path].discard(slot)
        self._seats[member.name] = seat

    def leave(self, name: str) -> None:
        """Take a member out and free its slots: cancelled, or moved elsewhere."""
        self._vacate(name)

    def _vacate(self, name: str) -> None:
        """Free a member's slots."""
        seat = self._seats.pop(name)
        for path, _, slot in self._own(seat):
            for parameter in self._bank.slot_parameters(path, slot):
                put_moments(self._optimizer, parameter, {})
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
            for key, tensor in slot_state(self._bank, self._optimizer, path, slot).items()
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

    def _place(self, member: Member) -> Place:
        """How the samples of a member's step are spread."""
        return replace(self.engine.place, batch_size=member.config.batch_size)

    def _samples(self, seat: _Seat, micro: int) -> list[Sample]:
        """A member's samples of one forward, in the pack's slots."""
        member, place, found = seat.member, self._place(seat.member), []
        for index in place.indices(micro):
            sample = member.sample(seat.step, index, place)
            spatial = seat.slot("spatial", sample.spatial_slot)
            temporal = seat.slot("temporal", sample.temporal_slot)
            found.append(replace(sample, spatial_slot=spatial, temporal_slot=temporal))
        return found

    def _factors(self, seats: Iterable[_Seat]) -> dict[tuple[str, int], float]:
        """The slots that this step trains, with the factor of their members' schedules."""
        return {
            (path, seat.slot(path, own)): seat.member.factor(seat.step)
            for seat in seats
            for path, own in seat.member.active_slots(seat.step, self._place(seat.member))
        }

    def _after(self, seat: _Seat, spatial: float, temporal: float, sound: bool, seconds: float) -> Event:
        """Count a member's step; let it go when it was the last, or none."""
        member, config = seat.member, seat.member.config
        if not sound:
            self._vacate(member.name)
            return Failed(member.name, seat.step, member.diverged(seat.step, spatial + temporal))
        report = StepReport(
            step=seat.step + 1,
            steps=config.steps,
            loss=spatial + temporal,
            spatial_loss=spatial,
            temporal_loss=temporal,
            learning_rate=config.learning_rate * member.factor(seat.step),
            seconds=seconds,
        )
        seat.step += 1
        if seat.step < config.steps:
            return Stepped(member.name, report)
        tensors = self.tensors(member.name)
        self._vacate(member.name)
        return Ended(member.name, report, tensors)

    def _own(self, seat: _Seat) -> list[tuple[LoraPath, int, int]]:
        """(path, number among the member's own, slot of the bank) of every slot of a member."""
        return [
            (path, number, slot) for path, slots in seat.slots.items() for number, slot in enumerate(slots, 1)
        ]
