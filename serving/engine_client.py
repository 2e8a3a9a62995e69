"""What the ingress sees of engines, wherever they run; imports neither them nor their model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.events import Event, Failed
from serving.requests import FoundationInfo, VideoRequest
from serving.schemas import AdapterUsed


@dataclass(frozen=True)
class Residency:
    """Where an adapter is: the nearest tier, how many running requests use its slot, whether it is pinned."""

    path: str
    sha256: str
    tier: str  # "slot", "host" or "disk"
    users: int = 0
    pinned: bool = False


class EngineLost(Exception):
    """The engine that ran a request is gone; the request has not ended and may run again elsewhere."""


class EngineClient(Protocol):
    """What the ingress needs of engines, wherever they run: of one that fits, where it does not say every.

    Any call may raise `EngineLost`: no engine answered.
    """

    async def describe(self) -> FoundationInfo:
        """The model it holds."""

    async def check(self, request: VideoRequest) -> Failed | None:
        """Why it would refuse the request, or None."""

    async def unread(self, prompts: Sequence[str]) -> list[str | None]:
        """A sentence about what the text encoder does not read of each prompt; None for one that it reads whole."""

    def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        """Events up to the last one. Closing the iterator cancels the request."""

    async def preview(self, id: str) -> bytes | Failed:
        """A small WebP of a request that is being denoised, or why there is none."""

    async def prefetch(self, use: AdapterUsed) -> list[Failed | None]:
        """Have every engine bring an adapter near; of each, why that cannot be."""

    async def keep(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        """Have every engine pin these and nothing else, unless it knows a later revision; how many engines there are."""

    async def residency(self) -> Mapping[str, Sequence[Residency]]:
        """Of every engine, by name, each adapter in a slot or in host memory."""

    async def backlog(self, work: float) -> int:
        """Say how much work (pixels through the denoiser) waits outside of engines; how many engines there are."""
