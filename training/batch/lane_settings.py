"""What a keeper tells the worker of a lane."""

from __future__ import annotations

from dataclasses import dataclass

from infra.leases import LEASE_S
from training.batch.profile import Profile

LINGER_S = LEASE_S  # an idle lane waits so long for what dead lanes leave, or is added


@dataclass(frozen=True)
class LaneSettings:
    """What a lane's worker has to know; travels to it."""

    name: str
    registry: str  # URI
    batch: str
    pack: int | None
    most: int  # members of a pack
    profile: Profile | None
    measure: bool  # its device, and take the best pack; the profile is None then
    threads: int  # of torch, on a CPU
    ahead: bool = True  # whether it prepares what waits beside its training
    lease_s: float = LEASE_S
    linger_s: float = LINGER_S
