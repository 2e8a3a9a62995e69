"""Settings that a supervisor passes to a lane's worker."""

from __future__ import annotations

from dataclasses import dataclass

from infra.storage.leases import LEASE_S
from training.batch.profile.profile import Profile

LINGER_S = LEASE_S  # how long an idle lane waits for added concepts, or those of dead lanes


@dataclass(frozen=True)
class LaneSettings:
    """All settings of a lane's worker, sent to it when it starts."""

    name: str
    registry: str  # URI
    batch: str
    pack: int | None
    most: int  # largest number of pack members
    profile: Profile | None
    measure: bool  # measure the device and choose the best pack size; the profile is None then
    threads: int  # torch threads, on a CPU
    prepare_ahead: bool = True  # whether it prepares waiting concepts while it trains
    lease_s: float = LEASE_S
    linger_s: float = LINGER_S
