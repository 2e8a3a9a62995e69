"""A lane of several workers: one leads like any lane, the others train the same packs.

    with Team() as team:                                   # on every worker; torch.distributed is initialised
        if team.leads:
            Lane(batch, registry, workers=team.workers, team=team).run()
        else:
            team.follow(device)                            # until the leader leaves its block

Only the leader reads records, claims, checkpoints and publishes. It tells the others every change of
its pack before it makes it. So all packs have the same members in the same order and do the same steps;
each rank computes its share of every member's samples (training/loop/engine.py). Each rank has all
slots whole, and at ZeRO 3 a shard of the base.

A worker that fails, for lack of memory or otherwise, ends the whole lane, because the ranks would
diverge. The lane's concepts are then free for the next lane, from the last checkpoints. If one worker
cannot load the foundation, no worker opens the pack, and the leader raises the UserError.
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
from models.foundations.base import Foundation
from models.load import load_foundation
from training.batch.state.work import Work
from training.loop.checkpoint import MemberState
from training.loop.deepspeed_engines import ShardedBaseEngine
from training.loop.engine import Engine, TeamEngine
from training.loop.group import GroupKey
from training.loop.member import Member
from training.loop.optim import SlotAdamW
from training.loop.pack import Capacity, Event, Pack
from training.loop.step import DualStep
from training.memory import explaining_memory

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
    """A member joins."""

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
    """Broadcasts the leader's orders as pickled objects over a separate, trusted process group."""

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def send(self, order: Order) -> None:
        """On the leader: send an order."""
        dist.broadcast_object_list([order], src=0, group=self._group)

    def receive(self) -> Order:
        """On the others: wait for the next order."""
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def first_error(self, problem: UserError | None = None) -> UserError | None:
        """On every rank, with its error in opening the pack, if any. Returns the first rank's error."""
        problems: list[UserError | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(problems, problem, group=self._group)
        return next((one for one in problems if one is not None), None)

    def agree(self, problem: str | None) -> None:
        """On every rank, with its problem. Raises RuntimeError on all of them if the problems differ."""
        problems: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(problems, problem, group=self._group)
        if len(set(problems)) > 1:
            found = "; ".join(f"rank {rank}: {what or 'no error'}" for rank, what in enumerate(problems))
            raise RuntimeError(f"the workers of this lane have diverged ({found})")


class LeaderPack(Pack):
    """The leader's pack: sends every change to the others before making it."""

    def __init__(self, orders: Orders, source: str | None, dtype: str, *args: Any) -> None:
        super().__init__(*args, make_engine=make_engine)
        self._orders = orders
        self._open = Open(source, self.foundation.fingerprint, dtype, self.key, self.capacity)
        self.sound = True  # the others wait for an order; False while they execute one or if one failed

    def __enter__(self) -> LeaderPack:
        """Open the pack on all workers; on none, with UserError, if a worker lacks the foundation."""
        with self._together(self._open):
            refusal = self._orders.first_error()
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
            self._orders.agree(_type_name(refusal))
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
        """Send the order; the block executes it on this rank."""
        self.sound = False
        self._orders.send(order)
        yield
        self.sound = True


class Team:
    """This process's part in a lane of several workers. A context manager whose exit frees the followers."""

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
            self._orders.send(Over())

    @contextmanager
    def pack(self, foundation: Foundation, work: Work, capacity: Capacity) -> Iterator[Pack]:
        """On the leader: a pack that all workers train during the block, for concepts of this one's group."""
        made = LeaderPack(self._orders, work.foundation, work.config.dtype, foundation, work.key, capacity)
        try:
            with made:
                yield made
        finally:
            self._sound = made.sound

    def follow(self, device: str) -> None:
        """On the others: execute the leader's orders until the lane ends.

        If the foundation cannot be loaded here, the leader reports it and no pack is opened.

        Raises:
            RuntimeError: an order had a different result here than on the leader.
        """
        loaded: tuple[tuple[str | None, str, int, str], Foundation] | None = None
        while True:
            order = self._orders.receive()
            if isinstance(order, Over):
                return
            assert isinstance(order, Open), order
            wanted = order.foundation, order.dtype, order.key.zero, order.key.quantize
            problem: UserError | None = None
            try:
                if loaded is None or loaded[0] != wanted:
                    loaded = None  # free it first: two may not fit
                    loaded = wanted, _load(order, device)
                _check(loaded[1], order)
            except UserError as error:
                problem = error
            if self._orders.first_error(problem) is not None:
                continue
            assert loaded is not None
            with Pack(loaded[1], order.key, order.capacity, make_engine=make_engine) as pack:
                self._train(pack)
            if order.key.zero:
                loaded = None  # it is sharded now

    def _train(self, pack: Pack) -> None:
        """Execute the orders for one pack of this rank until it closes."""
        while True:
            order = self._orders.receive()
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
                except Exception as error:  # the leader must have the same error; otherwise the lane ends
                    refusal = error
                self._orders.agree(_type_name(refusal))


def make_engine(module: DualStep, optimizer: SlotAdamW) -> Engine:
    """The engine of a team's pack."""
    return (ShardedBaseEngine if module.config.zero else TeamEngine)(module, optimizer)


def _type_name(error: Exception | None) -> str | None:
    return None if error is None else type(error).__name__


def _load(order: Open, device: str) -> Foundation:
    with explaining_memory(order.foundation, order.dtype, order.key.zero, device):
        return load_foundation(
            order.foundation,
            device=device,
            dtype=DTYPES[order.dtype],
            quantize=order.key.quantize,  # type: ignore[arg-type]
            parts=("denoiser",),
            denoiser_on_cpu=order.key.zero == 3,
        )


def _check(foundation: Foundation, order: Open) -> None:
    """Raises UserError if this node's foundation differs from the leader's."""
    if foundation.fingerprint != order.fingerprint:
        raise UserError(
            f"the foundation on {socket.gethostname()} has fingerprint {foundation.fingerprint[:12]}, but the lane's leader has "
            f"{order.fingerprint[:12]}; put the same files at {order.foundation} on every node."
        )
