"""A lane inside the worker of its Ray Train run: what `lane.py` does, told when to stop, with journal and metrics.

It must stop when the driver says so, when Ray drains its node, and when the process gets SIGTERM: then it keeps and
gives back what it holds.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from infra.errors import UserError
from training.batch.keeper import LaneSettings
from training.batch.lane import Lane, Watcher
from training.batch.logs import Journal, JournalHandler, Notes, Several
from training.batch.signals import LISTENING, TERMINATED
from training.batch.state import BatchState, open_batch

if TYPE_CHECKING:
    from training.loop import StepReport

LOOK_S = 1.0


def stay(lane: Lane, batch: BatchState, linger_s: float, *, wait: Callable[[float], bool]) -> str:
    """Run a lane until it is stopped ("stopped"), the batch has ended ("done"), or nothing came for long ("idle").

    Args:
        wait: sleeps so many seconds; True when the lane was stopped meanwhile.
    """
    pause = min(5.0, linger_s / 4)
    idle = 0.0
    while True:
        began = time.monotonic()
        lane.run()
        if lane.stopping:
            return "stopped"
        if all(record.ended for record in batch.records()):
            return "done"
        idle = idle + pause if time.monotonic() - began < pause else 0.0
        if idle > linger_s:
            return "idle"
        if wait(pause):
            return "stopped"


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Runs in the worker. Returns {"end": ...}, and "reason" where the lane could not go on."""
    import ray.train.torch

    settings: LaneSettings = config["settings"]
    keeper = config["keeper"]
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
    host = socket.gethostname()
    keeper.began.remote(settings.name, host, os.getpid(), ray.get_runtime_context().get_node_id())
    try:
        return {"end": _run(settings, keeper, str(device), host)}
    except UserError as error:  # a storage that is away: its claims run out
        return {"end": "failed", "reason": error.message}


def _run(settings: LaneSettings, keeper: Any, device: str, host: str) -> str:
    from infra.registry import open_registry

    registry = open_registry(settings.registry)
    batch = open_batch(registry.storage, settings.batch, lease_s=settings.lease_s)
    with Journal(batch.storage, settings.name) as journal:
        notes = Notes(journal)
        with JournalHandler(notes):
            journal.write(f"begins on {host}, process {os.getpid()}, {device}")
            lane = Lane(
                batch,
                registry,
                owner=settings.name,
                pack=settings.pack,
                most=settings.most,
                profile=settings.profile,
                device=device,
                ahead=settings.ahead,
                watcher=Several(notes, Metrics()),
            )
            with told_to_stop(lane, keeper, settings.name, journal) as stopped:
                try:
                    end = stay(lane, batch, settings.linger_s, wait=stopped.wait)
                except Exception as error:
                    journal.write(f"ends: {type(error).__name__}: {error}")
                    raise
            journal.write(f"ends: {end}")
            return end


class Metrics(Watcher):
    """Steps to Prometheus, through Ray."""

    def __init__(self) -> None:
        from training.metrics import TrainingMetrics

        self.observe = TrainingMetrics()

    def stepped(self, name: str, report: StepReport) -> None:
        self.observe(name, report)


@contextmanager
def told_to_stop(lane: Lane, keeper: Any, name: str, journal: Journal) -> Iterator[threading.Event]:
    """Within the block a thread stops the lane for SIGTERM, for a node that drains, or when the keeper says so."""
    import ray
    import ray.train

    over, stopped = threading.Event(), threading.Event()
    TERMINATED.clear()

    def why() -> str | None:
        if TERMINATED.is_set():
            return "SIGTERM"
        if ray.train.get_preemption_info() is not None:
            return "its node is drained"
        return "asked to" if ray.get(keeper.stopping.remote(name), timeout=60) else None

    def watch() -> None:
        while not over.wait(LOOK_S):
            try:
                reason = why()
            except Exception as error:  # the keeper is gone, and with it who started this lane
                reason = f"its keeper does not answer ({type(error).__name__})"
            if reason is not None:
                journal.write(f"stops: {reason}")
                lane.stop()
                stopped.set()
                return

    thread = threading.Thread(target=watch, name="lane-stop", daemon=True)
    thread.start()
    LISTENING.set()
    try:
        yield stopped
    finally:
        LISTENING.clear()
        over.set()
