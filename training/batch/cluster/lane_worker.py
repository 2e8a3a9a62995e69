"""Runs a lane (`lane.py`) in the worker of its Ray Train run, with journal, metrics and stop notices.

It stops when the driver says so, when Ray drains its node, and when the process gets SIGTERM. Then it
checkpoints and gives back its concepts.
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

from infra.allocator import keep_freed_memory
from infra.errors import UserError
from training.batch.cluster.lane_settings import LaneSettings
from training.batch.cluster.signals import LISTENING, TERMINATED
from training.batch.lane.lane import Lane
from training.batch.lane.team import Team
from training.batch.profile.measuring import Measuring
from training.batch.state.outage import Outage
from training.batch.state.state import BatchState, open_batch
from training.batch.watch.logs import Journal, JournalHandler, Notes, Several
from training.batch.watch.watcher import Watcher

if TYPE_CHECKING:
    from training.loop.report import StepReport

POLL_S = 1.0


def run_until_idle(lane: Lane, batch: BatchState, linger_s: float, *, wait: Callable[[float], bool]) -> str:
    """Run a lane until it is stopped ("stopped"), the batch has ended ("done"), or it had no work ("idle").

    Args:
        linger_s: seconds without work after which it ends.
        wait: sleeps for a number of seconds; True if the lane was stopped meanwhile.
    """
    pause = min(5.0, linger_s / 4)
    idle = 0.0
    outage = Outage()
    while True:
        began = time.monotonic()
        with outage.passing():
            lane.run(outage.answered)
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
    """Runs in every worker. Returns {"end": ...}, and "reason" if the lane failed."""
    import ray.train.torch

    settings: LaneSettings = config["settings"]
    supervisor = config["supervisor"]
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
    if ray.train.get_context().get_world_size() == 1:
        return _lead(settings, supervisor, str(device), None)
    with Team() as team:
        if team.leads:
            return _lead(settings, supervisor, str(device), team)
        # A notice to this worker concerns the whole lane: the supervisor passes it to the leader.
        with watching_for_stop(
            supervisor, settings.name, lambda why: supervisor.stop_lane.remote(settings.name, why)
        ):
            team.follow(str(device))
        return {"end": "followed"}


def _lead(settings: LaneSettings, supervisor: Any, device: str, team: Team | None) -> dict[str, Any]:
    """Run the lane in this process, alone or as leader of its team."""
    import ray

    host = socket.gethostname()
    supervisor.lane_started.remote(settings.name, host, os.getpid(), ray.get_runtime_context().get_node_id())
    try:
        return {"end": _run(settings, supervisor, device, host, team)}
    except UserError as error:  # such as an unavailable storage: the lane's claims then expire
        return {"end": "failed", "reason": error.message}


def _run(settings: LaneSettings, supervisor: Any, device: str, host: str, team: Team | None) -> str:
    from infra.registry import open_registry

    registry = open_registry(settings.registry)
    batch = open_batch(registry.storage, settings.batch, lease_s=settings.lease_s)
    workers = 1 if team is None else team.workers
    with Journal(batch.storage, settings.name) as journal:
        notes = Notes(journal)
        with JournalHandler(notes):
            several = f", {workers} workers" if workers > 1 else ""
            journal.write(f"begins on {host}, process {os.getpid()}, {device}{several}")
            lane = Lane(
                batch,
                registry,
                owner=settings.name,
                pack=settings.pack,
                most=settings.most,
                profile=settings.profile,
                measuring=Measuring(registry.storage, settings.name, device) if settings.measure else None,
                device=device,
                prepare_ahead=settings.prepare_ahead,
                watcher=Several(notes, Metrics()),
                workers=workers,
                team=team,
            )

            def stop(reason: str) -> None:
                journal.write(f"stops: {reason}")
                lane.stop()

            with watching_for_stop(supervisor, settings.name, stop) as stopped:
                try:
                    end = run_until_idle(lane, batch, settings.linger_s, wait=stopped.wait)
                except Exception as error:
                    journal.write(f"ends: {type(error).__name__}: {error}")
                    raise
            journal.write(f"ends: {end}")
            return end


class Metrics(Watcher):
    """Reports steps to Prometheus, through Ray."""

    def __init__(self) -> None:
        from training.reporting.metrics import TrainingMetrics

        self.observe = TrainingMetrics()

    def stepped(self, name: str, report: StepReport) -> None:
        self.observe(name, report)


def reason_to_stop(supervisor: Any, name: str) -> str | None:
    """The reason why this process's lane must stop now; None if it need not."""
    import ray
    import ray.train

    drained = ray.train.get_preemption_info() is not None  # blocks until every worker of the lane calls it
    if TERMINATED.is_set():
        return "SIGTERM"
    if drained:
        return "its node is drained"
    try:
        return ray.get(supervisor.stop_reason.remote(name), timeout=60)
    except Exception as error:  # the supervisor is gone, and the driver with it
        return f"its supervisor does not answer ({type(error).__name__})"


@contextmanager
def watching_for_stop(
    supervisor: Any, name: str, stop: Callable[[str], Any], every_s: float = POLL_S
) -> Iterator[threading.Event]:
    """Check in a thread for a reason to stop; on the first one, call `stop` and set the event."""
    over, stopped = threading.Event(), threading.Event()
    TERMINATED.clear()

    def watch() -> None:
        while not over.wait(every_s):
            reason = reason_to_stop(supervisor, name)
            # It keeps polling after the first reason: `reason_to_stop` blocks until every worker calls it.
            if reason is not None and not stopped.is_set():
                stop(reason)
                stopped.set()

    thread = threading.Thread(target=watch, name="lane-stop", daemon=True)
    thread.start()
    LISTENING.set()
    try:
        yield stopped
    finally:
        LISTENING.clear()
        over.set()
