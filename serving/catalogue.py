"""What `model` may name, and where the engine has the adapters behind the names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from infra.registry import Registry
from serving.answers import engine_unavailable, raise_refusal
from serving.engine_service import EngineClient, EngineLost
from serving.requests import FoundationInfo, pin
from serving.schemas import AdapterAnswer, AdapterName, AdapterUsed, LoraUse, ModelInfo, Resident

LOAD_PATIENCE = 120.0  # seconds for an adapter to be fetched and loaded
Status = Literal["pinned", "unpinned", "prefetched"]
Answer = TypeVar("Answer")


class Catalogue:
    """Concepts of one server.

    Args:
        info: answers what is served; raises UserError 503 while no engine does.
    """

    def __init__(
        self, registry: Registry | None, engine: EngineClient, info: Callable[[], Awaitable[FoundationInfo]]
    ) -> None:
        self._registry, self._engine, self._info = registry, engine, info

    async def models(self) -> list[ModelInfo]:
        """The foundation, then every version of every concept that was trained on it."""
        info = await self._info()
        base = ModelInfo(
            id="foundation", created=0, foundation=info.name, foundation_fingerprint=info.fingerprint
        )
        return [base, *await asyncio.to_thread(self._concepts, info)]

    async def prefetch(self, name: AdapterName) -> AdapterAnswer:
        """Bring an adapter near. UserError for one that is not there or cannot be loaded."""
        used = await self._used(name)
        raise_refusal(await self._asked(self._engine.prefetch(used)))
        return answer(used, "prefetched")

    async def pin(self, name: AdapterName) -> AdapterAnswer:
        """Keep an adapter in a slot until `unpin`. UserError 409 when no slot would be left for others."""
        used = await self._used(name)
        raise_refusal(await self._asked(self._engine.pin(used)))
        return answer(used, "pinned")

    async def unpin(self, name: AdapterName) -> AdapterAnswer:
        """Let an adapter go again; no error when it was not pinned."""
        used = await self._used(name)
        await self._asked(self._engine.unpin(used))
        return answer(used, "unpinned")

    async def residents(self) -> list[Resident]:
        """Every adapter in a slot or in host memory."""
        return [Resident.model_validate(one) for one in await self._asked(self._engine.residency())]

    async def _used(self, name: AdapterName) -> AdapterUsed:
        info = await self._info()
        return await asyncio.to_thread(pin, LoraUse(name=name.name, path=name.path), info, self._registry)

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(LOAD_PATIENCE):
                return await call
        except (EngineLost, TimeoutError):
            raise engine_unavailable() from None

    def _concepts(self, info: FoundationInfo) -> list[ModelInfo]:
        if self._registry is None:
            return []
        return [
            ModelInfo(
                id=f"foundation:{version.ref}",
                created=int(version.created_at.timestamp()),
                foundation=info.name,
                foundation_fingerprint=info.fingerprint,
                concept=version.concept,
                version=version.number,
                sha256=version.adapter_sha256,
            )
            for concept in self._registry.concepts()
            for version in self._registry.versions(concept.name)
            if version.metadata.get("foundation_fingerprint", info.fingerprint) == info.fingerprint
        ]


def answer(used: AdapterUsed, status: Status) -> AdapterAnswer:
    """What was done."""
    return AdapterAnswer(
        concept=used.concept, version=used.version, path=used.path, sha256=used.sha256, status=status
    )
