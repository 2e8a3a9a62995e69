"""A lane of several workers: one leads, as any lane does, and the others train the same packs beside it.

    with Team() as team:                                   # on every worker; torch.distributed is initialised
        if team.leads:
            Lane(batch, registry, workers=team.workers, team=team).run()
        else:
            team.follow(device)                            # until the leader leaves its block

Only the leader looks at records, claims, checkpoints and publishes. What it does to its pack it tells the others first, so
all packs have the same members in one order and do one step after another, each rank its share of every member's
samples (training/engine.py). Each rank has every slot whole, and at ZeRO 3 a share of the base.

A worker that fails, by memory or by anything else, takes the whole lane with it: the ranks would no longer be the same.
What the lane held is then free for the next one, from the last checkpoints. A foundation that one of them cannot load opens no
pack on any: that is the leader's UserError, as if it lacked there.
"""

from __future__ import annotations

import datetime
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from infra.errors import UserError
from models.dtypes import DTYPES
from models.foundation import Foundation
from models.load import load_foundation
from training.batch.work import Work
from training.checkpoint import MemberState
from training.deepspeed_engines import ShardedBaseEngine
from training.engine import Engine, TeamEngine
from training.group import GroupKey
from training.member import Member
from training.memory import explaining_memory
from training.optim import SlotAdamW
from training.pack import Capacity, Event, Pack
from training.step import DualStep

# A leader may wait for work, or prepare a concept, for longer than any limit that makes sense for a step.
PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Open:
    """A pack begins."""

    foundation: str | None
    fingerprint: str
    dtype: str
    key: GroupKey
    capacity: Capacity


@dataclass(frozen=True)
class Admit:
    """A member comes."""

    member: Member = field(repr=False)
    state: MemberState | None = field(repr=False)


@dataclass(frozen=True)
class Leave:
    """A member is taken out."""

    name: str


@dataclass(frozen=True)
class Step:
    """All members do a step."""


@dataclass(frozen=True)
class Close:
    """The pack ends."""


@dataclass(frozen=True)
class Over:
    """The lane ends."""


Order = Open | Admit | Leave | Step | Close | Over


class Orders:
    """How the leader's orders reach the others, over a group of its own: objects of this program, between its processes only."""

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def tell(self, order: Order) -> None:
        """On the leader."""
        dist.broadcast_object_list([order], src=0, group=self._group)

    def hear(self) -> Order:
        """On the others: the next order."""
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def refusal(self, problem: UserError | None = None) -> UserError | None:
        """On every rank, with what keeps it from a pack. Returns what keeps any of them from it, the first rank's."""
        told: list[UserError | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(told, problem, group=self._group)
        return next((one for one in told if one is not None), None)

    def agree(self, problem: str | None) -> None:
        """On every rank, with what it met with. Raises RuntimeError on all of them unless they met with the same."""
        problems: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(problems, problem, group=self._group)
        if len(set(problems)) > 1:
            told = "; ".join(f"rank {rank}: {what or 'none'}" for rank, what in enumerate(problems))
            raise RuntimeError(f"the workers of this lane do not agree any more ({told})")


class LeaderPack(Pack):
    """The leader's pack: tells every change to the others before it does the same."""

    def __init__(self, orders: Orders, source: str | None, dtype: str, *args: Any) -> None:
        super().__init__(*args, make_engine=make_engine)
        self._orders = orders
        self._open = Open(source, self.foundation.fingerprint, dtype, self.key, self.capacity)
        self.sound = True  # the others wait for an order: not while they do one, nor after one that failed

    def __enter__(self) -> LeaderPack:
        """Raises UserError when a worker has not the foundation: none has opened the pack then."""
        with self._together(self._open):
            refusal = self._orders.refusal()
            if refusal is None:
                super().__enter__()
        if refusal is not None:
            raise refusal
        return self

    def __exit__(self, *error: Any) -> None:
        if self.sound:
            with self._together(Close()):
                pass
        super().__exit__(*error)

    def admit(self, member: Member, state: MemberState | None = None) -> None:
        refusal: Exception | None = None
        with self._together(Admit(member, state)):
            try:
                super().admit(member, state)
            except Exception as error:
                refusal = error
            self._orders.agree(_named(refusal))
        if refusal is not None:
            raise refusal

    def leave(self, name: str) -> None:
        with self._together(Leave(name)):
            super().leave(name)

    def step(self) -> list[Event]:
        with self._together(Step()):
            return super().step()

    @contextmanager
    def _together(self, order: Order) -> Iterator[None]:
        """The order is told; in the block this rank does it."""
        self.sound = False
        self._orders.tell(order)
        yield
        self.sound = True


class Team:
    """This process's part in a lane of several. A context manager; leaving it, the leader lets the others go."""

    def __init__(self) -> None:
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self._orders = Orders()
        self._sound = True

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.leads and self._sound:
            self._orders.tell(Over())

    @contextmanager
    def pack(self, foundation: Foundation, work: Work, capacity: Capacity) -> Iterator[Pack]:
        """On the leader: a pack that all train, for the length of the block. Concepts of this one's group may enter it."""
        made = LeaderPack(self._orders, work.foundation, work.config.dtype, foundation, work.key, capacity)
        try:
            with made:
                yield made
        finally:
            self._sound = made.sound

    def follow(self, device: str) -> None:
        """On the others: do what the leader says until the lane ends.

        A foundation that cannot be had here is the leader's to tell of: no pack of it is opened.

        Raises:
            RuntimeError: this rank could not do what the leader could.
        """
        loaded: tuple[tuple[str | None, str, int], Foundation] | None = None
        while True:
            order = self._orders.hear()
            if isinstance(order, Over):
                return
            assert isinstance(order, Open), order
            wanted = order.foundation, order.dtype, order.key.zero
            problem: UserError | None = None
            try:
                if loaded is None or loaded[0] != wanted:
                    loaded = None  # two do not fit at once
                    loaded = wanted, _load(order, device)
                _check(loaded[1], order)
            except UserError as error:
                problem = error
            if self._orders.refusal(problem) is not None:
                continue
            assert loaded is not None
            with Pack(loaded[1], order.key, order.capacity, make_engine=make_engine) as pack:
                self._train(pack)
            if order.key.zero:
                loaded = None  # it is in pieces

    def _train(self, pack: Pack) -> None:
        """A pack of this rank, from its begin to its end."""
        while True:
            order = self._orders.hear()
            if isinstance(order, Close):
                return
            if isinstance(order, Step):
                pack.step()
            elif isinstance(order, Leave):
                pack.leave(order.name)
            else:
                assert isinstance(order, Admit), order
                refusal: Exception | None = None
                try:
                    pack.admit(order.member, order.state)
                except Exception as error:  # the leader's as well, who says so: or the lane ends
                    refusal = error
                self._orders.agree(_named(refusal))


def make_engine(module: DualStep, optimizer: SlotAdamW) -> Engine:
    """The engine of a team's pack."""
    return (ShardedBaseEngine if module.config.zero else TeamEngine)(module, optimizer)


def _named(error: Exception | None) -> str | None:
    return None if error is None else type(error).__name__


def _load(order: Open, device: str) -> Foundation:
    with explaining_memory(order.foundation, order.dtype, order.key.zero, device):
        return load_foundation(
            order.foundation,
            device=device,
            dtype=DTYPES[order.dtype],
            parts=("denoiser",),
            denoiser_on_cpu=order.key.zero == 3,
        )


def _check(foundation: Foundation, order: Open) -> None:
    """Raises UserError when the foundation of this node is another one than the leader's."""
    if foundation.fingerprint != order.fingerprint:
        raise UserError(
            f"the foundation on {socket.gethostname()} has fingerprint {foundation.fingerprint[:12]}, the lane's leader has "
            f"{order.fingerprint[:12]}; put the same files at {order.foundation} on every node."
        )
