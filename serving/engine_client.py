"""What the ingress sees of engines, wherever they run; imports neither them nor their model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from serving.events import Event, Failed
from serving.requests import FoundationInfo, VideoRequest
from serving.schemas import AdapterUsed


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

    def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        """Events up to the last one. Closing the iterator cancels the request."""

    async def preview(self, id: str) -> bytes | Failed:
        """A small WebP of a request that is being denoised, or why there is none."""

    async def prefetch(self, use: AdapterUsed) -> list[Failed | None]:
        """Have every engine bring an adapter near; of each, why that cannot be."""

    async def keep(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        """Have every engine pin these and nothing else, unless it knows a later revision; how many engines there are."""

    async def residency(self) -> Mapping[str, Sequence[Any]]:
        """Of every engine, by name, each adapter in a slot or in host memory: its path, sha256, tier, users, pinned."""

    async def backlog(self, work: float) -> int:
        """Say how much work (pixels through the denoiser) waits outside of engines; how many engines there are."""
