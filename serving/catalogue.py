"""What `model` may name, and where the engines have the adapters behind the names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from infra.errors import UserError
from infra.registry import Registry
from serving.answers import engine_unavailable, raise_refusal
from serving.engine_client import EngineClient, EngineLost
from serving.pins import PinStore
from serving.requests import FoundationInfo, pin
from serving.schemas import (
    AdapterAnswer,
    AdapterName,
    AdapterPart,
    AdapterUsed,
    LoraUse,
    ModelInfo,
    PinnedAdapter,
    Resident,
    ResidentList,
)
from serving.shelf import Shelf
from serving.threads import LISTS, REGISTRY, Threads

REGISTRY_PATIENCE = 30.0  # seconds for the registry to answer
LOAD_PATIENCE = 120.0  # seconds for an adapter to be fetched and loaded
Status = Literal["pinned", "unpinned", "prefetched"]
Answer = TypeVar("Answer")


class Catalogue:
    """Concepts of one server.

    Args:
        info: answers what is served; raises UserError 503 while no engine does.
        pins: what every engine is to keep.
        tell: has every engine do so at once; how many there are.
    """

    def __init__(
        self,
        registry: Registry | None,
        engine: EngineClient,
        info: Callable[[], Awaitable[FoundationInfo]],
        pins: PinStore,
        tell: Callable[[], Awaitable[int]],
    ) -> None:
        self._registry, self._engine, self._info = registry, engine, info
        self._shelf = Shelf(registry) if registry is not None else None
        self._pins, self._tell = pins, tell

    async def models(self) -> list[ModelInfo]:
        """The foundation, then every version of every concept that was trained on it.

        UserError 503 when reading them takes long; it goes on, and who asks again waits for what is left.
        """
        info = await self._info()
        base = ModelInfo(
            id="foundation", created=0, foundation=info.name, foundation_fingerprint=info.fingerprint
        )
        return [base, *await read_registry(self._concepts, info, threads=LISTS)]

    async def prefetch(self, name: AdapterName) -> AdapterAnswer:
        """Bring a version's adapters near in every engine. UserError when one of them cannot load one."""
        uses = await self._used(name)
        return answer(uses, "prefetched", await self._prefetch(uses))

    async def pin(self, name: AdapterName) -> AdapterAnswer:
        """Keep a version's adapters in slots of every engine until `unpin`.

        UserError for one that cannot be loaded, and 409 when no slot would be left for others; then nothing is pinned.
        """
        uses, info = await self._used(name), await self._info()
        await self._prefetch(uses)
        await asyncio.to_thread(self._pins.pin, info.fingerprint, uses, info.slots)
        return answer(uses, "pinned", await self._told())

    async def unpin(self, name: AdapterName) -> AdapterAnswer:
        """Let a version's adapters go again; no error when they were not pinned."""
        info = await self._info()
        uses = await asyncio.to_thread(self._pins.named, info.fingerprint, name.name, name.path)
        if not uses:  # not pinned, under another name, or its latest version is meant
            uses = await self._used(name)
        await asyncio.to_thread(self._pins.unpin, info.fingerprint, uses)
        return answer(uses, "unpinned", await self._told())

    async def residents(self) -> ResidentList:
        """Every adapter in a slot or in host memory of any engine, and what is pinned."""
        info = await self._info()
        engines = await self._asked(self._engine.residency())
        _, pins = await asyncio.to_thread(self._pins.wanted, info.fingerprint)
        return ResidentList(
            data=[Resident(engine=name, **asdict(held)) for name, all in engines.items() for held in all],
            engines=sorted(engines),
            pins=[PinnedAdapter(**pin.model_dump(exclude={"scale"})) for pin in pins],
        )

    async def _prefetch(self, uses: Sequence[AdapterUsed]) -> int:
        engines = 0
        for used in uses:
            answers = await self._asked(self._engine.prefetch(used))
            for refused in answers:
                raise_refusal(refused)
            engines = len(answers)
        return engines

    async def _told(self) -> int:
        """How many engines have heard of a change that is written down; the others will."""
        try:
            return await self._tell()
        except (EngineLost, TimeoutError, UserError):
            return 0

    async def _used(self, name: AdapterName) -> list[AdapterUsed]:
        info = await self._info()
        return await read_registry(pin, LoraUse(name=name.name, path=name.path), info, self._registry)

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(LOAD_PATIENCE):
                return await call
        except (EngineLost, TimeoutError):
            raise engine_unavailable() from None

    def _concepts(self, info: FoundationInfo) -> list[ModelInfo]:
        if self._shelf is None:
            return []
        return [
            ModelInfo(
                id=f"foundation:{version.ref}",
                created=version.created,
                foundation=info.name,
                foundation_fingerprint=info.fingerprint,
                concept=version.concept,
                version=version.number,
                sha256=version.sha256,
            )
            for version in self._shelf.versions()
            if version.foundation in (None, info.fingerprint)
        ]


async def read_registry(call: Callable[..., Answer], /, *args: Any, threads: Threads = REGISTRY) -> Answer:
    """What a call that reads the registry answers. Raises UserError 503 when that takes too long."""
    try:
        async with asyncio.timeout(REGISTRY_PATIENCE):
            return await threads.run(call, *args)
    except TimeoutError:
        raise UserError(
            f"the concept registry has not answered for {REGISTRY_PATIENCE:g} s; try again in some seconds.",
            status=503,
            code="registry_slow",
        ) from None


def answer(uses: Sequence[AdapterUsed], status: Status, engines: int) -> AdapterAnswer:
    """What was done with the adapters of one version."""
    first = uses[0]
    return AdapterAnswer(
        concept=first.concept,
        version=first.version,
        path=first.path,
        sha256=first.sha256,
        adapters=[AdapterPart(path=used.path, sha256=used.sha256) for used in uses],
        status=status,
        engines=engines,
    )
