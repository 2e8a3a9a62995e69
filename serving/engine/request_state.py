"""The state of a request in the engine."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from infra.errors import DeadlinePassed, UserError
from models.denoise import Denoising
from models.foundations.base import Bucket
from models.generation import InvertedNoise
from serving.adapters.adapter_cache import Claim
from serving.adapters.slots import Lease
from serving.events import Event, Listener
from serving.fairness import Flow
from serving.requests import PRIORITY_WEIGHT, VideoRequest, cost_of, rows_of

log = logging.getLogger(__name__)


class Stage(Enum):
    """Where a request stands."""

    WAITING = "waiting"  # for its adapters, then for its turn and a slot
    RUNNING = "running"  # in the batch
    FINISHING = "finishing"  # its video is being decoded and encoded
    ENDED = "ended"


@dataclass(eq=False)
class RequestState:
    """A request, the resources it holds, and the data for its events. Times are of `time.monotonic`."""

    id: str
    request: VideoRequest
    listener: Listener
    claim: Claim
    stage: Stage = Stage.WAITING  # only the request table changes it
    submitted: float = field(default_factory=time.monotonic)
    loaded: float = 0.0  # when its adapters were first loaded
    admitted: float = 0.0  # when it joined the batch
    overtaken: int = 0  # how many others were admitted while it waited for a slot
    lease: Lease | None = None
    denoising: Denoising | None = None  # from its admission on
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage of its work
    device_seconds: float = 0.0  # its share, by work, of the steps that it was in
    neighbours: int = 0  # maximum number of other requests of its tenant in one of its steps
    batch_adapters: int = 0  # maximum number of distinct adapters in one of its steps
    cancelled: bool = False
    preview: tuple[Tensor, Future[bytes]] | None = None  # the last preview, with the estimate it shows

    @property
    def bucket(self) -> Bucket:
        return self.request.bucket

    @property
    def rows(self) -> int:
        """Number of its samples in a forward."""
        return rows_of(self.request)

    @property
    def noise(self) -> InvertedNoise | None:
        """Its noise prior with the latents that its claim has read; None if it names no prior."""
        prior, stored = self.request.noise_file, self.claim.noise
        if prior is None or stored is None:
            return None
        return stored.inverted(self.request.seed, prior.weight, prior.source)

    def expired(self) -> bool:
        """Whether its deadline has passed."""
        return self.request.deadline is not None and time.time() >= self.request.deadline

    def tell(self, event: Event) -> None:
        """Send an event to its listener. Logs an error of the listener, which must not stop other requests."""
        try:
            self.listener(event)
        except Exception:
            log.exception("the listener of %s failed", self.id)


def work_left(state: RequestState) -> float:
    """The remaining part of its cost in denoised pixels (`cost_of`)."""
    done = state.denoising.progress if state.denoising is not None else 0.0
    return cost_of(state.request) * (1.0 - done)


def flow_of(request: VideoRequest) -> Flow:
    """The flow of a request: priority class (by weight), tenant, set of adapters."""
    adapters = frozenset(use.sha256 for use in request.adapters)
    return [
        (request.priority, PRIORITY_WEIGHT**request.priority),
        (request.tenant, 1.0),
        (adapters, 1.0),
    ]


def order_of(request: VideoRequest) -> float:
    """The order within a flow: earlier deadlines first."""
    return request.deadline if request.deadline is not None else float("inf")


def deadline_passed() -> UserError:
    """The error of a request that waited beyond its deadline."""
    return DeadlinePassed(
        "the request's deadline passed while it waited; send it again with a later one, or when the server is less busy."
    )
