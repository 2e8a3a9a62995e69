"""Lists the valid values of `model`, and loads and pins their adapters in the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from infra.errors import Unavailable, UserError
from serving.adapters.concepts import Concepts
from serving.adapters.model_list import VersionSummary
from serving.engine_client import EngineClient, EngineLost
from serving.http.answers import engine_unavailable, raise_refusal
from serving.jobs.pins import PinStore
from serving.requests import FoundationInfo, resolve_adapters
from serving.schemas import (
    AdapterAnswer,
    AdapterName,
    AdapterPart,
    AdapterUsed,
    LoraUse,
    ModelInfo,
    ModelList,
    PinnedAdapter,
    Resident,
    ResidentList,
)
from serving.threads import LISTS, LISTS_EACH, READS_EACH, REGISTRY, Shares

REGISTRY_TIMEOUT = 30.0  # seconds for the registry to answer
LOAD_TIMEOUT = 120.0  # seconds for an adapter to be fetched and loaded
NO_VERSIONS: Sequence[VersionSummary] = ()
Status = Literal["pinned", "unpinned", "prefetched"]
Answer = TypeVar("Answer")


class Catalogue:
    """The concepts of one server.

    Args:
        info: returns what is served; raises Unavailable if no engine answers.
        pins: the adapters that every engine must keep.
        send_pins: sends them to every engine now; returns the number of engines.
    """

    def __init__(
        self,
        registry: Concepts | None,
        engine: EngineClient,
        info: Callable[[], Awaitable[FoundationInfo]],
        pins: PinStore,
        send_pins: Callable[[], Awaitable[int]],
    ) -> None:
        self._registry, self._engine, self._info = registry, engine, info
        self._pins, self._send_pins = pins, send_pins
        self._reads, self._lists = Shares(REGISTRY, READS_EACH), Shares(LISTS, LISTS_EACH)
        self._cached: tuple[Sequence[VersionSummary], FoundationInfo, bytes] | None = None

    async def models(self, tenant: str) -> bytes:
        """The foundation, then every version of every concept that was trained on it: a `ModelList` as JSON.

        Raises Unavailable if reading them takes too long. Reading continues, so a later call waits less.
        """
        info = await self._info()
        return await within_registry_timeout(self._lists.run(tenant, self._models, info))

    async def read(self, tenant: str, call: Callable[..., Answer], /, *args: Any) -> Answer:
        """Run a call that reads the registry, for a tenant. Raises Unavailable if it takes too long."""
        return await within_registry_timeout(self._reads.run(tenant, call, *args))

    async def prefetch(self, name: AdapterName, tenant: str) -> AdapterAnswer:
        """Load a version's adapters into every engine's memory. Raises UserError if an engine cannot."""
        uses = await self._resolve(name, tenant)
        return answer(uses, "prefetched", await self._prefetch(uses))

    async def pin(self, name: AdapterName, tenant: str) -> AdapterAnswer:
        """Keep a version's adapters in slots of every engine until `unpin`.

        Raises UserError for an adapter that cannot be loaded, and Conflict if no slot would be left for
        others. In both cases nothing is pinned.
        """
        uses, info = await self._resolve(name, tenant), await self._info()
        await self._prefetch(uses)
        await asyncio.to_thread(self._pins.pin, info.fingerprint, uses, info.slots)
        return answer(uses, "pinned", await self._send_stored_pins())

    async def unpin(self, name: AdapterName, tenant: str) -> AdapterAnswer:
        """Unpin a version's adapters; no error if they were not pinned."""
        info = await self._info()
        uses = await asyncio.to_thread(self._pins.named, info.fingerprint, name.name, name.path)
        if not uses:  # not pinned, pinned under another name, or the latest version is meant
            uses = await self._resolve(name, tenant)
        await asyncio.to_thread(self._pins.unpin, info.fingerprint, uses)
        return answer(uses, "unpinned", await self._send_stored_pins())

    async def residents(self) -> ResidentList:
        """Every adapter in a slot or in host memory of any engine, and the pinned ones."""
        info = await self._info()
        engines = await self._ask_engines(self._engine.residency())
        _, pins = await asyncio.to_thread(self._pins.wanted, info.fingerprint)
        return ResidentList(
            data=[Resident(engine=name, **asdict(held)) for name, all in engines.items() for held in all],
            engines=sorted(engines),
            pins=[PinnedAdapter(**pin.model_dump(exclude=set(pin.settings))) for pin in pins],
        )

    async def _prefetch(self, uses: Sequence[AdapterUsed]) -> int:
        engines = 0
        for used in uses:
            answers = await self._ask_engines(self._engine.prefetch(used))
            for refused in answers:
                raise_refusal(refused)
            engines = len(answers)
        return engines

    async def _send_stored_pins(self) -> int:
        """Tell the engines about a stored change; returns how many heard of it. Others hear of it later."""
        try:
            return await self._send_pins()
        except (EngineLost, TimeoutError, UserError):
            return 0

    async def _resolve(self, name: AdapterName, tenant: str) -> list[AdapterUsed]:
        info = await self._info()
        return await self.read(
            tenant, resolve_adapters, LoraUse(name=name.name, path=name.path), info, self._registry
        )

    async def _ask_engines(self, call: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT):
                return await call
        except (EngineLost, TimeoutError):
            raise engine_unavailable() from None

    def _models(self, info: FoundationInfo) -> bytes:
        """The list as JSON, cached while nothing changes: serializing thousands of versions takes a while."""
        versions = self._registry.model_list.versions() if self._registry is not None else NO_VERSIONS
        written = self._cached
        if written is not None and written[0] is versions and written[1] == info:
            return written[2]
        models = [
            ModelInfo(
                id="foundation", created=0, foundation=info.name, foundation_fingerprint=info.fingerprint
            )
        ]
        models += [
            ModelInfo(
                id=f"foundation:{version.ref}",
                created=version.created,
                foundation=info.name,
                foundation_fingerprint=info.fingerprint,
                concept=version.concept,
                version=version.number,
                sha256=version.sha256,
                gives=list(version.gives),
            )
            for version in versions
            if version.foundation in (None, info.fingerprint)
        ]
        text = ModelList(data=models).model_dump_json().encode()
        self._cached = (versions, info, text)
        return text


async def within_registry_timeout(call: Awaitable[Answer]) -> Answer:
    """Await a call that reads the registry. Raises Unavailable if it takes too long."""
    try:
        async with asyncio.timeout(REGISTRY_TIMEOUT):
            return await call
    except TimeoutError:
        raise Unavailable(
            f"the concept registry did not answer within {REGISTRY_TIMEOUT:g} s; try again in a few seconds.",
            code="registry_slow",
        ) from None


def answer(uses: Sequence[AdapterUsed], status: Status, engines: int) -> AdapterAnswer:
    """The API's answer to an action on the adapters of one version."""
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
