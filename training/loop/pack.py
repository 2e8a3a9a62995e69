"""The training loop, for one concept or for several in one forward.

    with Pack(foundation, group_key(foundation.fingerprint, config), Capacity(members=8, spatial=16)) as pack:
        pack.admit(Member("orbit", "orbit", config, clips))
        while pack.members:
            for event in pack.step():            # Stepped, Ended or Failed for each member
                ...                              # publish, checkpoint, admit others if there is room

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
from torch import Tensor

from infra.errors import Unavailable, UserError
from models.foundations.base import Foundation
from models.lora.bank import AdapterBank
from models.lora.routing import PATHS, LoraPath
from training.adapters import PathTensors
from training.loop.checkpoint import GENERATED, MemberState, put_moments, put_slot_state, slot_state
from training.loop.draws import Place
from training.loop.engine import Engine, group_settings, make_optimizer, set_active
from training.loop.finished import finished
from training.loop.group import GroupKey, group_key
from training.loop.member import Member, bank_options, has_spatial, has_temporal
from training.loop.optim import SlotAdamW
from training.loop.report import StepReport
from training.loop.step import DualStep, OwnSettings, Sample, collate


@dataclass(frozen=True)
class Capacity:
    """Size of a pack: members (each has one temporal slot, or none) and spatial slots (`member.bank_slots`)."""

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
    """A member could not continue and left; the step did not change its slots."""

    name: str
    step: int  # steps done before
    error: UserError


Event = Stepped | Ended | Failed


@dataclass
class _ActiveMember:
    """A member in the pack: its slots in the pack's bank, and the steps it has done."""

    member: Member
    slots: dict[LoraPath, tuple[int, ...]]
    step: int = 0  # steps done
    generated_NCFHW: Tensor | None = (
        None  # latents of its generated references, from the step that makes them
    )

    def slot(self, path: LoraPath, own: int) -> int:
        """The pack's slot for slot `own` of the member (from 1; 0 stays the empty slot)."""
        return self.slots[path][own - 1] if own else 0


class Pack:
    """A trainable bank with room for several concepts, and the engine that trains them. A context manager.

    Outside the block the foundation is unchanged.

    Attributes:
        sound: False if the pack cannot be used any more, because other workers that train it
            (training/batch/lane/team.py) are gone.

    Args:
        key: the settings that its members share.
        capacity: of the bank.
        make_engine: makes the engine from the step and the optimizer; `Engine` is plain torch in this process.
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
                f"zero {key.zero} shards a model over several workers, but this pack has one worker; set zero 0."
            )
        self.foundation, self.key, self.capacity = foundation, key, capacity
        self.sound = True
        self._make_engine = make_engine
        self._active: dict[str, _ActiveMember] = {}
        self._exit = ExitStack()
        self.engine: Engine

    def __enter__(self) -> Self:
        config = self.key.config()
        slots: dict[LoraPath, int] = {
            "spatial": self.capacity.spatial if has_spatial(config) else 0,
            "temporal": self.capacity.members if has_temporal(config) else 0,
        }
        with ExitStack() as entering:
            entering.enter_context(torch.enable_grad())
            options = {**bank_options(config, 1), "slots": slots}
            self._bank: AdapterBank = entering.enter_context(self.foundation.temporary_bank(**options))
            entering.enter_context(self.foundation.gradient_checkpointing(config.gradient_checkpointing))
            self._optimizer = make_optimizer(self._bank, config, 1)
            self._free: dict[LoraPath, set[int]] = {
                path: set(range(1, self._bank.slots[path] + 1)) for path in PATHS
            }
            self._groups: dict[tuple[LoraPath, int], list[dict[str, Any]]] = {}
            for group in self._optimizer.param_groups:
                self._groups.setdefault((group["path"], group["slot"]), []).append(group)
            self._admit_first()
            self.engine = self._make_engine(DualStep(self.foundation, config), self._optimizer)
            self._exit = entering.pop_all()
        return self

    def _admit_first(self) -> None:
        """Admit the members that need their slots before the engine is created; here none."""

    def __exit__(self, *error: Any) -> None:
        self._active.clear()
        self.engine.close()
        self._exit.__exit__(*error)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the current members, in the order in which they joined."""
        return tuple(self._active)

    def has_room(self, slots: Mapping[LoraPath, int]) -> bool:
        """Whether this number of slots of each path is free (`Member.slots`, `member.bank_slots`)."""
        return all(len(self._free[path]) >= count for path, count in slots.items())

    def admit(self, member: Member, state: MemberState | None = None) -> None:
        """Give a member its slots. It trains from the next step on, from its first step or from `state`.

        Raises:
            UserError: the name is taken, the settings belong to another group, the clips cannot be trained on, or
                there is no room (Unavailable).
        """
        if member.name in self._active:
            raise UserError(f"{member.name} is already in this pack; give each member its own name.")
        other = self.key.difference(group_key(self.foundation.fingerprint, member.config))
        if other is not None:
            raise UserError(f"{member.name} cannot train in this pack: {other}; put it into another pack.")
        member.check_clips(self.foundation, self.key.bucket)
        member.check_experts(self.foundation)
        if not self.has_room(member.slots()):
            raise Unavailable(
                f"{member.name} needs {member.slots()} slots, but only { {p: len(f) for p, f in self._free.items()} } are "
                "free; wait until a member ends.",
                code="pack_full",
            )
        taken = {path: tuple(sorted(self._free[path])[:count]) for path, count in member.slots().items()}
        one = _ActiveMember(member, taken)
        if state is not None:
            one.step, one.generated_NCFHW = state.step, state.tensors.get(GENERATED)
        for path, number, slot in self._slots_of(one):
            for group in self._groups[path, slot]:
                group.update(group_settings(path, member.config, len(member.clips)))
            if state is None:
                self._bank.reset(path, slot, seed=member.config.seed, number=number)
            else:
                put_slot_state(self._bank, self._optimizer, path, slot, state.slot(path, number))
            self._free[path].discard(slot)
        self._active[member.name] = one

    def leave(self, name: str) -> None:
        """Remove a member, such as a cancelled one, and free its slots."""
        self._free_slots(name)

    def _free_slots(self, name: str) -> None:
        """Free a member's slots."""
        one = self._active.pop(name)
        for path, _, slot in self._slots_of(one):
            for parameter in self._bank.slot_parameters(path, slot):
                put_moments(self._optimizer, parameter, {})
                parameter.grad = None
            self._bank.clear(path, slot)
            for group in self._groups[path, slot]:
                group["active"] = False
            self._free[path].add(slot)

    def state(self, name: str) -> MemberState:
        """A copy of a member's state, for `admit` here or elsewhere."""
        one = self._active[name]
        tensors = {
            f"{path}/{number}/{key}": tensor
            for path, number, slot in self._slots_of(one)
            for key, tensor in slot_state(self._bank, self._optimizer, path, slot).items()
        }
        if one.generated_NCFHW is not None:
            tensors[GENERATED] = one.generated_NCFHW
        return MemberState(one.step, tensors)

    def tensors(self, name: str) -> PathTensors:
        """A copy, on the CPU, of a member's current adapters that generation uses."""
        one = self._active[name]
        return finished(one.member.config, lambda path: self._bank.extract(path, one.slot(path, 1)))

    def step(self) -> list[Event]:
        """Do one step of every member. Members that did their last step, or whose loss is not finite, then leave.

        After an exception (out of memory, a lost device) the pack cannot be used any more: continue in a new pack
        from the members' last states.
        """
        began = time.perf_counter()
        active = list(self._active.values())
        if not active:
            return []
        for one in active:
            if one.generated_NCFHW is None and one.member.config.learns_generated(one.step):
                one.generated_NCFHW = one.member.generate(self.foundation, one.slot("temporal", 1))
        engine, accumulation = self.engine, self.key.gradient_accumulation
        sums = torch.zeros(len(active), 2, device=self.foundation.device)
        for micro in range(accumulation):
            samples = [self._samples(one, micro) for one in active]
            own = OwnSettings.of([s.member.config for s, of in zip(active, samples, strict=True) for _ in of])
            batch = collate([sample for of in samples for sample in of], self.foundation.device, own)
            losses_2B = torch.stack(engine.losses(batch))
            # Each member's mean is computed separately: one that is not finite must not affect another.
            parts = losses_2B.split([len(of) for of in samples], 1)
            engine.backward(torch.stack([part.sum(0).mean() for part in parts]).sum())
            sums += torch.stack([part.detach().mean(1) for part in parts])
            if micro + 1 < accumulation:
                engine.step()
        losses = engine.mean(sums / accumulation).tolist()
        sound = [math.isfinite(spatial + temporal) for spatial, temporal in losses]
        set_active(engine.optimizer, self._factors([s for s, ok in zip(active, sound, strict=True) if ok]))
        engine.step()
        seconds = time.perf_counter() - began
        return [
            self._after(one, spatial, temporal, ok, seconds)
            for one, (spatial, temporal), ok in zip(active, losses, sound, strict=True)
        ]

    def _place(self, member: Member) -> Place:
        """How the samples of a member's step are distributed."""
        return replace(self.engine.place, batch_size=member.config.batch_size)

    def _samples(self, one: _ActiveMember, micro: int) -> list[Sample]:
        """A member's samples of one forward, in the pack's slots."""
        member, place, found = one.member, self._place(one.member), []
        for index in place.indices(micro):
            sample = member.sample(one.step, index, place, self.foundation.boundary, one.generated_NCFHW)
            spatial = one.slot("spatial", sample.spatial_slot)
            temporal = one.slot("temporal", sample.temporal_slot)
            found.append(replace(sample, spatial_slot=spatial, temporal_slot=temporal))
        return found

    def _factors(self, active: Iterable[_ActiveMember]) -> dict[tuple[str, int, str], float]:
        """The parts of slots that this step trains, with the factor of their members' schedules."""
        return {
            (path, one.slot(path, own), part): one.member.factor(one.step)
            for one in active
            for path, own in one.member.active_slots(one.step, self._place(one.member))
            for part in self._parts(one)
        }

    def _parts(self, one: _ActiveMember) -> tuple[str, ...]:
        """The parts of the denoiser that a member's step trains: of two experts usually one."""
        expert = one.member.config.expert_of(one.step)
        return (expert,) if self.foundation.experts and expert else self._bank.parts

    def _after(
        self, one: _ActiveMember, spatial: float, temporal: float, sound: bool, seconds: float
    ) -> Event:
        """Count a member's step; remove the member after its last step, or if the loss is not finite."""
        member, config = one.member, one.member.config
        if not sound:
            self._free_slots(member.name)
            return Failed(member.name, one.step, member.diverged(one.step, spatial + temporal))
        report = StepReport(
            step=one.step + 1,
            steps=config.steps,
            loss=spatial + temporal,
            spatial_loss=spatial,
            temporal_loss=temporal,
            learning_rate=config.learning_rate * member.factor(one.step),
            seconds=seconds,
        )
        one.step += 1
        if one.step < config.steps:
            return Stepped(member.name, report)
        tensors = self.tensors(member.name)
        self._free_slots(member.name)
        return Ended(member.name, report, tensors)

    def _slots_of(self, one: _ActiveMember) -> list[tuple[LoraPath, int, int]]:
        """(path, number in the member's own bank, slot in the pack's bank) of every slot of a member."""
        return [
            (path, number, slot) for path, slots in one.slots.items() for number, slot in enumerate(slots, 1)
        ]
