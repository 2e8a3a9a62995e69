"""Lists the valid values of `model`, and loads and pins their adapters in the engines."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from infra.errors import NotFound, Unavailable, UserError
from infra.registry import Registry, parse_ref
from models.adapters.versions import preview_file
from serving.adapters.concepts import Concepts
from serving.adapters.model_list import VersionSummary, summary_of
from serving.engine_client import EngineClient, EngineLost
from serving.http.answers import engine_unavailable, raise_refusal
from serving.jobs.pins import PinStore
from serving.requests import (
    FoundationInfo,
    VideoRequest,
    find_version,
    parse_model,
    resolve,
    resolve_adapters,
)
from serving.schemas import (
    AdapterAnswer,
    AdapterName,
    AdapterPart,
    AdapterUsed,
    CreateVideo,
    LoraUse,
    ModelInfo,
    ModelList,
    PinnedAdapter,
    Resident,
    ResidentList,
    ShareModel,
    VersionFile,
)
from serving.tenants.concepts import SeenVersion, TenantConcepts, seen_versions
from serving.tenants.namespaces import Namespace, private_name, split_name
from serving.tenants.own_concepts import OwnConcepts, not_yours
from serving.tenants.tenants import Tenants
from serving.threads import LISTS, LISTS_EACH, READS_EACH, REGISTRY, Shares

REGISTRY_TIMEOUT = 30.0  # seconds for the registry to answer
CACHED_LISTS = 64  # tenants whose list of models is kept
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
        tenants: Tenants,
        own: OwnConcepts,
    ) -> None:
        self._registry, self._engine, self._info = registry, engine, info
        self._pins, self._send_pins, self._tenants = pins, send_pins, tenants
        self._own = own
        self._reads, self._lists = Shares(REGISTRY, READS_EACH), Shares(LISTS, LISTS_EACH)
        self._lock = threading.Lock()
        self._cached: OrderedDict[str, tuple[Listed, bytes]] = OrderedDict()  # by tenant

    async def models(self, tenant: str) -> bytes:
        """The foundation, then every version that the tenant sees and that was trained on it: a `ModelList` as JSON.

        Raises Unavailable if reading them takes too long. Reading continues, so a later call waits less.
        """
        info = await self._info()
        return await within_registry_timeout(self._lists.run(tenant, self._models, tenant, info))

    async def preview(self, ref: str, tenant: str) -> bytes:
        """The sample video of a version, an mp4. Raises NotFound if there is no such version, or it has none."""
        return await self.read(tenant, lambda: read_preview(ref, self.registry_of(tenant)))

    async def read(self, tenant: str, call: Callable[..., Answer], /, *args: Any) -> Answer:
        """Run a call that reads the registry, for a tenant. Raises Unavailable if it takes too long."""
        return await within_registry_timeout(self._reads.run(tenant, call, *args))

    async def resolve(self, tenant: str, body: CreateVideo, info: FoundationInfo) -> tuple[VideoRequest, str]:
        """`serving.requests.resolve` with the concepts that a tenant sees."""
        return await self.read(tenant, lambda: resolve(body, info, self.registry_of(tenant)))

    def registry_of(self, tenant: str) -> Registry | None:
        """The registry as a tenant sees it; blocks. A server without keys has one user, who sees all of it."""
        if self._registry is None or not tenant:
            return self._registry
        return TenantConcepts(self._registry, self._tenants.namespace(tenant))

    def id_of(self, tenant: str) -> str | None:
        """The id of a tenant, which is the owner of its concepts; blocks."""
        return self._tenants.namespace(tenant).id

    async def has_own(self, tenant: str, concept: str) -> bool:
        """Whether a tenant has a concept of its own of this name."""

        def find() -> bool:
            registry = self.registry_of(tenant)
            if isinstance(registry, TenantConcepts):
                return bool(registry.own(concept))
            return registry is not None and bool(
                registry.numbers(concept, "versions") - registry.numbers(concept, "removed")
            )

        return await self.read(tenant, find)

    async def check_usable(self, files: Sequence[VersionFile], tenant: str) -> None:
        """Raise NotFound if one is of a tenant's concept that was deleted, or is no longer shared with this tenant."""
        private = [file for file in files if file.owner is not None]
        if private:
            await self.read(tenant, self._check_usable, private, tenant)

    def _check_usable(self, files: Sequence[VersionFile], tenant: str) -> None:
        namespace, registry = self._tenants.namespace(tenant), self._registry
        for file in files:
            name = private_name(file.owner or "", file.concept)
            kept = set[int]()
            if registry is not None and namespace.seen(name) is not None:
                kept = registry.numbers(name, "versions") - registry.numbers(name, "removed")
            if file.version not in kept:
                raise NotFound(
                    f"concept {file.ref} of this video is not there any more; name another one.",
                    code="concept_not_found",
                )

    async def model(self, id: str, tenant: str) -> ModelInfo:
        """One model that the tenant sees. Raises NotFound for any other."""
        info = await self._info()
        reference = parse_model(id, info.name)
        if reference is None:
            return foundation_model(info)
        return await self.read(tenant, self._model, reference, tenant, info)

    def _model(self, reference: str, tenant: str, info: FoundationInfo) -> ModelInfo:
        registry = self.registry_of(tenant)
        version = find_version(reference, info, registry)
        assert registry is not None
        owner = registry.owner(version.concept)
        namespace = self._tenants.namespace(tenant)
        name = private_name(owner, version.concept) if owner else version.concept
        seen = SeenVersion(replace(summary_of(version), concept=name), version.concept, owner)
        return described(seen, info, namespace, self._tenants.shares(namespace.id))

    async def delete(self, id: str, tenant: str, actor: str) -> None:
        """Delete a concept of the tenant's own, or one version. `actor`: who does it, for the audit log."""
        await self.read(tenant, self._own.delete, tenant, await self._reference(id), actor)

    async def share(self, id: str, body: ShareModel, tenant: str, actor: str) -> None:
        """Share a concept of the tenant's own with others."""
        reference = await self._reference(id)
        await self.read(tenant, self._own.share, tenant, reference, body.tenants, body.all, actor)

    async def _reference(self, id: str) -> str:
        """The concept that a model's id names. Raises NotFound if there is none."""
        reference = parse_model(id, (await self._info()).name)
        if reference is None:
            raise not_yours(id)
        return reference

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
        await asyncio.to_thread(self._pins.pin, info.fingerprint, in_registry(uses), info.slots)
        return answer(uses, "pinned", await self._send_stored_pins())

    async def unpin(self, name: AdapterName, tenant: str) -> AdapterAnswer:
        """Unpin a version's adapters; no error if they were not pinned."""
        info = await self._info()
        uses = await asyncio.to_thread(self._pinned, info.fingerprint, name, tenant)
        if not uses:  # not pinned, pinned under another name, or the latest version is meant
            uses = in_registry(await self._resolve(name, tenant))
        await asyncio.to_thread(self._pins.unpin, info.fingerprint, uses)
        named = [use.model_copy(update={"concept": split_name(use.concept)[1]}) for use in uses]
        return answer(named, "unpinned", await self._send_stored_pins())

    def _pinned(self, fingerprint: str, name: AdapterName, tenant: str) -> list[AdapterUsed]:
        """The pinned adapters that a tenant means by `concept@version`, even if removed since."""
        concept, number = parse_ref(name.name)
        for candidate in self._tenants.namespace(tenant).candidates(concept) if number else ():
            if uses := self._pins.named(fingerprint, f"{candidate}@{number}", name.path):
                return uses
        return []

    async def residents(self, tenant: str, *, everyones: bool) -> ResidentList:
        """The adapters in a slot or in host memory of any engine, and the pinned ones.

        Args:
            everyones: also those of concepts that the tenant does not see.
        """
        info = await self._info()
        engines = await self._ask_engines(self._engine.residency())
        _, pins = await asyncio.to_thread(self._pins.wanted, info.fingerprint)
        data = [Resident(engine=name, **asdict(held)) for name, all in engines.items() for held in all]
        if not everyones:
            versions, namespace = await within_registry_timeout(self._lists.run(tenant, self._seen, tenant))
            hashes = {sha256 for seen in versions for sha256 in seen.version.adapters}
            data = [held for held in data if held.sha256 in hashes]
            named = ((pin, namespace.seen(pin.concept)) for pin in pins)
            pins = [pin.model_copy(update={"concept": name}) for pin, name in named if name is not None]
        return ResidentList(
            data=data,
            engines=sorted(engines),
            pins=[PinnedAdapter(**pin.model_dump(exclude=set(pin.settings))) for pin in pins],
        )

    def _seen(self, tenant: str) -> tuple[list[SeenVersion], Namespace]:
        """The versions that a tenant sees, and its namespace."""
        namespace = self._tenants.namespace(tenant)
        versions = self._registry.model_list.versions() if self._registry is not None else NO_VERSIONS
        return seen_versions(versions, namespace), namespace

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
            tenant,
            lambda: resolve_adapters(LoraUse(name=name.name, path=name.path), info, self.registry_of(tenant)),
        )

    async def _ask_engines(self, call: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT):
                return await call
        except (EngineLost, TimeoutError):
            raise engine_unavailable() from None

    def names(self) -> Sequence[str]:
        """The names of all concepts in the registry, as of a recent list."""
        return self._registry.names() if self._registry is not None else ()

    async def list_anew(self, tenant: str) -> None:
        """List the registry, unless that was done within a second. Raises Unavailable if it is slow."""
        if self._registry is not None:
            call = self._lists.run(tenant, self._registry.model_list.versions)
            await within_registry_timeout(call)

    def own_bytes(self, id: str) -> int:
        """Bytes of the own concepts of the tenant with this id, as of the last list of the registry."""
        versions = self._registry.model_list.known if self._registry is not None else NO_VERSIONS
        return sum(version.bytes for version in versions if split_name(version.concept)[0] == id)

    def _models(self, tenant: str, info: FoundationInfo) -> bytes:
        """The list as JSON, cached while nothing changes: serializing thousands of versions takes a while."""
        namespace = self._tenants.namespace(tenant)
        shares = self._tenants.shares(namespace.id)
        versions = self._registry.model_list.versions() if self._registry is not None else NO_VERSIONS
        listed = Listed(versions, info, namespace, shares)
        with self._lock:
            known = self._cached.get(tenant)
        if known is not None and known[0].equals(listed):
            return known[1]
        models = [foundation_model(info)]
        models += [
            described(seen, info, namespace, shares)
            for seen in seen_versions(versions, namespace)
            if seen.version.foundation in (None, info.fingerprint)
        ]
        text = ModelList(data=models).model_dump_json().encode()
        with self._lock:
            self._cached[tenant] = (listed, text)
            self._cached.move_to_end(tenant)
            while len(self._cached) > CACHED_LISTS:
                self._cached.popitem(last=False)
        return text


@dataclass(frozen=True)
class Listed:
    """What a list of models was made of."""

    versions: Sequence[VersionSummary]
    info: FoundationInfo
    namespace: Namespace
    shares: dict[str, list[str]]

    def equals(self, other: Listed) -> bool:
        """Whether the list would be the same. The versions are the same object while they are unchanged."""
        return self.versions is other.versions and (self.info, self.namespace, self.shares) == (
            other.info,
            other.namespace,
            other.shares,
        )


def foundation_model(info: FoundationInfo) -> ModelInfo:
    """The foundation as the API shows it."""
    return ModelInfo(
        id="foundation", created=0, foundation=info.name, foundation_fingerprint=info.fingerprint
    )


def described(
    seen: SeenVersion, info: FoundationInfo, namespace: Namespace, shares: Mapping[str, list[str]]
) -> ModelInfo:
    """A version as the API shows it to a tenant."""
    version, is_own = seen.version, seen.owner is not None and seen.owner == namespace.id
    return ModelInfo(
        id=f"foundation:{seen.ref}",
        created=version.created,
        owned_by="you" if is_own else "motiondirector" if seen.owner is None else "others",
        foundation=info.name,
        foundation_fingerprint=info.fingerprint,
        concept=seen.concept,
        version=version.number,
        sha256=version.sha256,
        gives=list(version.gives),
        about=version.about,
        fidelity=version.fidelity,
        preview=version.preview,
        shared_with=shares.get(version.concept, []) if is_own else None,
    )


def in_registry(uses: Sequence[AdapterUsed]) -> list[AdapterUsed]:
    """The same adapters with the names of their concepts in the registry."""
    return [
        use.model_copy(update={"concept": private_name(use.owner, use.concept), "owner": None})
        if use.owner
        else use
        for use in uses
    ]


def read_preview(ref: str, registry: Registry | None) -> bytes:
    """The sample video of a version. Raises NotFound."""
    if registry is None:
        raise no_preview(ref)
    version = registry.resolve(ref)
    name = preview_file(version)
    if name is None:
        raise no_preview(version.ref)
    return registry.read(version, name)


def no_preview(ref: str) -> NotFound:
    return NotFound(
        f"{ref[:100]!a} has no sample video; request a video with it to see its motion.", code="no_preview"
    )


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
