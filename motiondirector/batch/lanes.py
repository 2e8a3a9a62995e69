"""Chooses where a batch's lanes run, in this process or on a Ray cluster, and finds the device's profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import UserError
from motiondirector.batch.config import BatchConfig

if TYPE_CHECKING:
    from infra.storage import Storage
    from training.batch.profile.profile import Profile
    from training.batch.state.work import Work


@dataclass(frozen=True)
class Lanes:
    """The number of lanes to plan for, and where they run.

    Args:
        nodes: resources of the cluster's nodes; empty for a lane in this process.
        cpus: CPUs of a lane on Ray; None: chosen automatically.
    """

    count: int
    on_ray: bool = False
    nodes: Sequence[Mapping[str, float]] = ()
    cpus: float | None = None

    def check(self, work: Work) -> None:
        """Raises UserError if there is no room for a work."""
        if self.on_ray:
            from training.batch.cluster.sizing import room_check

            room_check(self.nodes, self.cpus)(work)


@contextmanager
def lanes_for(config: BatchConfig, dry_run: bool = False) -> Iterator[Lanes]:
    """The lanes of a batch, with the Ray session that they need during the block. Raises UserError."""
    count = config.lane_count
    if config.address is None and count == 1:
        yield Lanes(1)
        return
    with cluster(config.address, count, config.cpus_per_lane, dry_run) as (planned, nodes):
        if config.address is None and planned == 1:
            yield Lanes(1)
            return
        from training.batch.cluster.ray_lanes import check_encoder

        if config.profile == "auto":
            raise UserError(
                "--profile auto measures the device of this process, but the lanes run in other processes; use --pack auto, so "
                "that lanes measure their own devices, or give a profile file."
            )
        check_encoder(config.encoder_gpus, nodes)
        shared = None if config.address is not None else max(1.0, (os.cpu_count() or 1) // planned)
        yield Lanes(planned, True, nodes, config.cpus_per_lane or shared)


@contextmanager
def cluster(
    address: str | None, lanes: int | None, cpus: float | None, dry_run: bool
) -> Iterator[tuple[int, list[dict[str, float]]]]:
    """A Ray session for this number of lanes. Yields the number of lanes to plan for, and the nodes' resources.

    Without an address it is a cluster on this machine, with a CPU for each lane even if the machine has fewer. A
    dry run with a given number of lanes starts no such cluster, because its resources are known.
    """
    from infra.ray.cluster import ray_session, reachable_nodes
    from training.batch.cluster.sizing import lane_need, places

    options: dict[str, Any] = {}
    if address is None and lanes is not None:
        options["num_cpus"] = max(lanes, os.cpu_count() or 1)
        if dry_run and not os.environ.get("RAY_ADDRESS"):
            import torch

            yield lanes, [{"CPU": options["num_cpus"], "GPU": torch.cuda.device_count()}]
            return
    with ray_session(address, **options):
        nodes = reachable_nodes()
        yield lanes or max(1, places(nodes, lane_need(nodes, cpus))), nodes


def profile_of(config: BatchConfig, lanes: Lanes, measure: Callable[[], Profile]) -> Profile | None:
    """The profile of the lanes' device: read from a file, or measured here; None if neither is requested.

    Args:
        measure: measures the device of this process.
    """
    from training.batch.profile.profile import Profile

    if config.profile == "auto" or (config.profile is None and config.pack == "auto" and not lanes.on_ray):
        return measure()
    return None if config.profile is None else Profile.parse(read_text(Path(config.profile)), config.profile)


def read_text(path: Path) -> str:
    """A local text file. Raises UserError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); give a profile file, or `auto` to measure this device."
        ) from None


def only_kind(storage: Storage) -> Profile | None:
    """The profile that lanes measured, for a plan; None if there is none, or if there are several kinds of devices.

    With several kinds, it is not known which lane trains what.
    """
    from training.batch.profile.measuring import kept_profiles

    kept = kept_profiles(storage)
    return kept[0] if len(kept) == 1 else None
