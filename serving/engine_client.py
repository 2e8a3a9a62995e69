"""The ingress's interface to engines, wherever they run; imports neither the engine nor its model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.events import Event, Failed
from serving.requests import FoundationInfo, VideoRequest
from serving.schemas import AdapterUsed


@dataclass(frozen=True)
class Residency:
    """Location of an adapter: its fastest tier, running requests that use its slot, whether it is pinned."""

    path: str
    sha256: str
    tier: str  # "slot", "host" or "disk"
    users: int = 0
    pinned: bool = False


class EngineLost(Exception):
    """The engine of a request is gone. The request has not ended and may run again on another engine."""


class EngineClient(Protocol):
    """What the ingress needs from engines. Calls go to one suitable engine unless stated otherwise.

    Any call may raise `EngineLost`: no engine answered.
    """

    async def describe(self) -> FoundationInfo:
        """The engine's model."""

    async def check(self, request: VideoRequest) -> Failed | None:
        """Why the engine would refuse the request, or None."""

    async def unread(self, prompts: Sequence[str]) -> list[str | None]:
        """For each prompt, a warning about the part that the text encoder does not read, or None."""

    def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        """Run a request and yield its events. Closing the iterator cancels the request."""

    async def preview(self, id: str) -> bytes | Failed:
        """A small WebP of a request that is being denoised, or why there is none."""

    async def prefetch(self, use: AdapterUsed) -> list[Failed | None]:
        """Make every engine load an adapter into memory; returns each one's failure, or None."""

    async def set_pins(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        """Make every engine pin exactly these unless it knows a later revision; returns their number."""

    async def forget(self, hashes: Sequence[str]) -> bool:
        """Make every engine remove erased files from slots, memory and disk; False if one still uses some."""

    async def residency(self) -> Mapping[str, Sequence[Residency]]:
        """The adapters in a slot or in host memory of every engine, by the engine's name."""

    async def backlog(self, work: float) -> int:
        """Report the work (denoised pixels) that waits outside of engines; returns the number of engines."""
