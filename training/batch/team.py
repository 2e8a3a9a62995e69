"""A lane of several workers: one leads, as any lane does, and the others train the same packs beside it.

    with Team() as team:                                   # on every worker; torch.distributed is initialised
        if team.leads:
            Lane(batch, registry, workers=team.workers, team=team).run()
        else:
            team.follow(device)                            # until the leader leaves its block

Only the leader looks at records, claims, checkpoints and publishes. What it does to its pack it tells the others first, so
all packs have the same members in one order and do one step after another, each rank its share of every member's
samples (training/team_engine.py). Each rank has every slot whole, and at ZeRO 3 a share of the base.

A worker that fails, by memory or by anything else, takes the whole lane with it: the ranks would no longer be the same.
What the lane held is then free for the next one, from the last checkpoints.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from models.foundation import Foundation
from models.load import load_foundation
from training.batch.work import Work
from training.config import DTYPES
from training.engine import Engine
from training.group import GroupKey
from training.optim import SlotAdamW
from training.pack import Capacity, Event, Member, MemberState, Pack
from training.step import DualStep
from training.team_engine import ShardedBaseEngine, TeamEngine

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
        with self._together(self._open):
            self._orders.agree(None)
            super().__enter__()
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

        Raises:
            RuntimeError: the foundation here is another one, or this rank could not do what the leader could.
        """
        loaded: tuple[tuple[str | None, str], Foundation] | None = None
        while True:
            order = self._orders.hear()
            if isinstance(order, Over):
                return
            assert isinstance(order, Open), order
            wanted = order.foundation, order.dtype
            if loaded is None or loaded[0] != wanted:
                loaded = None  # two do not fit at once
                loaded = wanted, _load(order, device)
            self._orders.agree(_other(loaded[1], order))
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
    return load_foundation(order.foundation, device=device, dtype=DTYPES[order.dtype], parts=("denoiser",))


def _other(foundation: Foundation, order: Open) -> str | None:
    """What is wrong with the foundation of this node; None where it is the leader's."""
    if foundation.fingerprint == order.fingerprint:
        return None
    return (
        f"the foundation here has fingerprint {foundation.fingerprint[:12]}, the leader's {order.fingerprint[:12]}; put "
        f"the same files at {order.foundation} on every node"
    )
