"""Loads a request's adapters in parallel to denoising: registry -> local disk -> host memory -> slot.

A claim goes through two stages, each in fair turns: fetch (over the network, a few at once) and pack
(disk to host memory, once the host cache has room for all of the claim's adapters). Claims whose adapters
are in host memory or in slots are ready at once. An adapter is fetched and packed once for all claims
that need it. No thread of the cache waits for another one.

A claim with a noise prior always goes through the first stage, which also reads the prior from disk. The
claim holds it until it is released, so a prior is in memory only while a request waits with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from torch import Tensor

from infra.errors import InvalidInput
from models.adapters.file import MAX_RANK
from models.adapters.noise_prior import StoredNoise
from models.lora.bank import AdapterBank
from serving.adapters.files import Source
from serving.adapters.host import HostCache
from serving.adapters.slots import Key, SlotTable, key_of
from serving.engine_client import Residency
from serving.events import Observe, unobserved
from serving.fairness import FairQueue, Flow
from serving.schemas import AdapterUsed, NoisePriorUsed, VersionFile

log = logging.getLogger(__name__)
FETCHERS = 4  # claims that fetch at once; each fetches one adapter after the other
PACKERS = 2  # claims that pack at once
PIN_RETRY_PAUSE = 30.0  # seconds before a pinned adapter that failed to load is retried
PREFETCH: Flow = [("prefetch", 1.0)]
PIN: Flow = [("pin", 1.0)]

FileKey = tuple[str, str]  # (path of the adapter, or "noise"; sha256)
Ready = Callable[["Claim", BaseException | None], None]


def file_key(use: VersionFile) -> FileKey:
    """What identifies a file among those being fetched."""
    return key_of(use) if isinstance(use, AdapterUsed) else ("noise", use.sha256)


@dataclass(eq=False)
class Claim:
    """The adapters and noise prior that a request (or a prefetch) needs loaded until `AdapterCache.release`."""

    uses: Sequence[AdapterUsed]
    ready: Ready  # called once after each `load`, from any thread, when all are loaded or with the error
    flow: Flow  # its flow in the fair queues
    order: float = float("inf")  # within its flow, smaller values go first
    prior: NoisePriorUsed | None = None
    noise: StoredNoise | None = None  # of `prior`, once it is read
    held: tuple[Key, ...] = ()  # in the host cache
    released: bool = False
    wanted: bool = False  # its adapters count as needed by a queued request (`SlotTable.want`)
    all_to_host: bool = False  # load all of its adapters into host memory, even those in slots
    fetching: frozenset[FileKey] = field(default=frozenset())  # what its turn to fetch brings to disk

    @property
    def keys(self) -> list[Key]:
        return [key_of(use) for use in self.uses]

    @property
    def unread(self) -> NoisePriorUsed | None:
        """Its noise prior, if that must still be read."""
        return self.prior if self.noise is None else None

    @property
    def files(self) -> list[VersionFile]:
        """The files of its adapters and of its noise prior."""
        return [*self.uses, *([self.prior] if self.prior is not None else [])]

    @property
    def cost(self) -> float:
        """The cost of loading it, which counts against its flow's share: the number of files."""
        return float(len(self.files))


class AdapterCache:
    """Loads adapters to where requests can use them. Thread-safe.

    Args:
        source: the registry and the local disk.
        host_bytes: maximum bytes of packed adapters in host memory; raised to the slots' size if smaller.
        observe: receives "load_seconds" with label tier (disk, host, slot) for each load.
    """

    def __init__(
        self, bank: AdapterBank, source: Source, *, host_bytes: int = 4 << 30, observe: Observe = unobserved
    ) -> None:
        self.bank, self.source = bank, source
        self.slots = SlotTable(bank, lambda seconds: self._count_load("slot", seconds))
        self._sizes = {
            path: bank.slot_bytes(path) if n and bank.targets[path] else 0 for path, n in bank.slots.items()
        }
        least = sum(n * self._sizes[path] for path, n in bank.slots.items())
        self.host = HostCache(max(host_bytes, least))  # otherwise a request for all slots would wait forever
        self._observe = observe
        self._lock = threading.RLock()
        self._to_fetch: FairQueue[Claim] = FairQueue()
        self._to_pack: FairQueue[Claim] = FairQueue()
        self._fetching: set[FileKey] = set()
        self._fetches = 0  # number of running fetches
        self._packing: set[Key] = set()
        self._loading_pins: set[Key] = set()  # pinned adapters being loaded
        self._failed_pins: dict[Key, float] = {}  # pinned adapters that failed -> time of the next try
        self._warming = self._closing = False
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._packers = ThreadPoolExecutor(PACKERS, thread_name_prefix="pack")
        self.loads: dict[str, tuple[int, float]] = {}  # tier -> (adapters loaded, seconds)

    def shutdown(self) -> None:
        """Stop loading."""
        with self._lock:
            self._closing = True
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._packers.shutdown(cancel_futures=True)

    # --- claims ---------------------------------------------------------------------------------------------

    def load(self, claim: Claim) -> None:
        """Load all of a claim's adapters into host memory or slots, then call its `ready`."""
        with self._lock:
            if claim.released:
                return
            if not claim.wanted:
                claim.wanted = True
                self.slots.want(claim.keys)
            loaded = claim.unread is None and self._hold_loaded(claim)
            if not loaded:
                needed = self._needed(claim)
                files: list[VersionFile] = [
                    use for use in claim.uses if (key := key_of(use)) in needed and self.host.get(key) is None
                ]
                if claim.unread is not None:
                    files.append(claim.unread)
                claim.fetching = frozenset(file_key(use) for use in files if not self.source.has(use))
                to_fetch = claim.fetching or claim.unread is not None
                queue = self._to_fetch if to_fetch else self._to_pack
                queue.add(claim, claim.flow, claim.cost, claim.order)
        if loaded:
            claim.ready(claim, None)
        else:
            self._pump()

    def reload(self, claim: Claim) -> None:
        """Load all adapters of a claim into host memory, because a slot it relied on was reassigned.

        Releases its holds first: two claims that each hold a half would deadlock.
        """
        with self._lock:
            claim.all_to_host = True
            held, claim.held = claim.held, ()
        self.host.release(held)
        self.load(claim)

    def release(self, claim: Claim) -> None:
        """Release a claim that is no longer needed."""
        with self._lock:
            if claim.released:
                return
            claim.released = True
            if claim.wanted:
                self.slots.want(claim.keys, -1)
            self._to_fetch.remove(claim)
            self._to_pack.remove(claim)
            held, claim.held = claim.held, ()
            claim.noise = None
        self.host.release(held)
        self._pump()

    def images(self, claim: Claim) -> dict[Key, Tensor] | None:
        """Packed images of the adapters in no slot; None if one was evicted since: call `reload`."""
        found = {key: self.host.get(key) for key in self.slots.missing(claim.keys)}
        images = {key: image for key, image in found.items() if image is not None}
        return images if len(images) == len(found) else None

    def _needed(self, claim: Claim) -> list[Key]:
        """The adapters that a claim needs in host memory."""
        return claim.keys if claim.all_to_host else self.slots.missing(claim.keys)

    def _hold_loaded(self, claim: Claim) -> bool:
        """Hold the adapters that a claim needs if all are in host memory; True if nothing must be loaded."""
        needed = self._needed(claim)
        if any(self.host.get(key) is None for key in needed):
            return False
        return self._hold(claim, needed)

    def _hold(self, claim: Claim, keys: Iterable[Key]) -> bool:
        new = {key: self._sizes[key[0]] for key in keys if key not in claim.held}
        if not self.host.hold(new):
            return False
        claim.held += tuple(new)
        return True

    # --- the two stages -------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start all fetches and packs that can start."""
        with self._lock:
            while not self._closing and (claim := self._to_fetch.pick(self._may_fetch)) is not None:
                self._fetching |= claim.fetching
                self._fetches += 1
                self._fetchers.submit(self._fetch, claim)
            while not self._closing and (claim := self._to_pack.pick(self._may_pack)) is not None:
                keys = frozenset(claim.held)
                self._packing |= keys
                self._packers.submit(self._pack, claim, keys)

    def _may_fetch(self, claim: Claim) -> bool:
        return self._fetches < FETCHERS and not claim.fetching & self._fetching

    def _may_pack(self, claim: Claim) -> bool:
        needed = self._needed(claim)
        return self._packing.isdisjoint(needed) and self._hold(claim, needed)

    def _fetch(self, claim: Claim) -> None:
        fetched: frozenset[FileKey] = claim.fetching
        failed: BaseException | None = None
        key: FileKey | None = None
        for use in claim.files:
            if claim.released:
                break
            key = file_key(use)
            try:
                if key in fetched:
                    started = time.monotonic()
                    self.source.fetch(use)
                    self._count_load("disk", time.monotonic() - started)
                if use is claim.unread:
                    claim.noise = self.source.read_noise(use)
            except BaseException as error:
                failed = error
                break
        failed_claims: list[Claim] = []
        waiters: list[Claim] = []  # for files that are on disk now
        with self._lock:
            self._fetching -= fetched
            self._fetches -= 1
            if failed is not None:
                failed_claims.append(claim)
            elif not claim.released:
                self._to_pack.add(claim, claim.flow, claim.cost, claim.order)
            for other in self._to_fetch:
                if failed is not None and key in other.fetching:  # it needs the file that failed
                    failed_claims.append(other)
                elif other.fetching & fetched:
                    waiters.append(other)
            for other in (*failed_claims, *waiters):
                self._to_fetch.remove(other)
        for one in failed_claims:
            self._notify(one, failed)
        for one in waiters:
            self.load(one)
        self._pump()

    def _pack(self, claim: Claim, packed: frozenset[Key]) -> None:
        failed: BaseException | None = None
        try:
            for use in claim.uses:
                key = key_of(use)
                if key in packed and self.host.get(key) is None and not claim.released:
                    started = time.monotonic()
                    self.host.put(key, self._image(use))
                    self._count_load("host", time.monotonic() - started)
            for key in packed if not claim.released else ():
                self.warm(key)
        except BaseException as error:
            failed = error
        with self._lock:
            self._packing -= packed
        if failed is None and not claim.released and self.images(claim) is None:
            self.reload(claim)
        else:
            self._notify(claim, failed)
        self._pump()

    def _image(self, use: AdapterUsed) -> Tensor:
        adapter = self.source.read(use)
        if not self.bank.holds(adapter.rank):
            wider = f"start the server with --rank {adapter.rank}"
            merged = "export the adapter merged into the model's weights (motiondirector concepts export)"
            raise InvalidInput(
                f"{use.ref} has rank {adapter.rank}, and this server's slots hold at most "
                f"{self.bank.rank}; {wider if adapter.rank <= MAX_RANK else merged}.",
                code="rank_too_large",
            )
        return self.bank.pack(use.path, adapter.tensors)

    def _notify(self, claim: Claim, error: BaseException | None) -> None:
        if not claim.released:
            claim.ready(claim, error)

    def _count_load(self, tier: str, seconds: float) -> None:
        with self._lock:
            count, total = self.loads.get(tier, (0, 0.0))
            self.loads[tier] = (count + 1, total + seconds)
        self._observe("load_seconds", seconds, {"tier": tier})

    def warm(self, key: Key) -> bool:
        """Copy an adapter from host memory into a spare slot, unless it is in one. False if it is in none."""
        image = self.host.get(key)
        if image is None:
            return not self.slots.missing([key])
        return self.slots.warm(key, image)

    def warm_in_background(self, keys: Sequence[Key], then: Callable[[], None]) -> None:
        """`warm` each in a worker thread, then call `then`; does nothing if an earlier call still runs."""

        def work() -> None:
            try:
                for key in keys:
                    self.warm(key)
            finally:
                self._warming = False
                then()

        with self._lock:
            if not self._closing and not self._warming:
                self._warming = True
                self._packers.submit(work)

    # --- explicit loading -----------------------------------------------------------------------------------

    def prefetch(
        self, uses: Sequence[AdapterUsed], flow: Flow = PREFETCH, prior: NoisePriorUsed | None = None
    ) -> Future[None]:
        """Load adapters into host memory, and into free slots; does not wait.

        The future ends when all are loaded, or with the UserError of one that cannot be loaded. Cancelling it
        releases the claim.

        Args:
            flow: the flow of the fair queues that it joins.
            prior: a noise prior to fetch and check as well.
        """
        loaded: Future[None] = Future()

        def ready(claim: Claim, error: BaseException | None) -> None:
            self.release(claim)
            try:
                if error is None:
                    for key in claim.keys:
                        self.warm(key)
            except Exception as failed:
                error = failed
            if loaded.set_running_or_notify_cancel():  # False: cancelled
                loaded.set_exception(error) if error is not None else loaded.set_result(None)

        claim = Claim(uses, ready, flow, prior=prior)
        loaded.add_done_callback(lambda _: self.release(claim))
        self.load(claim)
        return loaded

    def set_pinned(self, uses: Sequence[AdapterUsed]) -> None:
        """Pin exactly these (`SlotTable.set_pinned`) and start to load those in no slot; does not wait.

        A repeated call retries adapters that found no slot, and after `PIN_RETRY_PAUSE` seconds those that
        failed to load. An adapter that finds no spare slot gets one with its next request.
        """
        pinned = self.slots.set_pinned([key_of(use) for use in uses])
        missing = set(self.slots.missing(pinned))
        now = time.monotonic()
        with self._lock:
            self._failed_pins = {
                key: until for key, until in self._failed_pins.items() if until > now and key in pinned
            }
            missing -= self._failed_pins.keys() | self._loading_pins
            self._loading_pins |= missing
        for use in uses:
            if key_of(use) in missing:
                missing.remove(key_of(use))  # it may be listed twice
                self.load(Claim([use], self._pin_loaded, PIN))

    def _pin_loaded(self, claim: Claim, error: BaseException | None) -> None:
        """Finish loading a pinned adapter, which is now in host memory or failed."""
        [use], [key] = claim.uses, claim.keys
        try:
            if error is None:
                self.warm(key)
        except Exception as failed:
            error = failed
        self.release(claim)
        if error is not None:
            log.warning("%s@%s is pinned and cannot be loaded: %s", use.concept, use.version, error)
        with self._lock:
            self._loading_pins.discard(key)
            if error is not None:
                self._failed_pins[key] = time.monotonic() + PIN_RETRY_PAUSE

    def forget(self, hashes: Collection[str]) -> bool:
        """Remove these adapters and noise priors from slots, host memory and disk.

        False if one is used or being loaded: call it again.
        """
        gone = True
        for sha256 in hashes:
            for path in self.bank.slots:
                key: Key = (path, sha256)
                gone = self.slots.forget(key) and self.host.forget(key) and gone
            gone = self.source.forget(sha256) and gone
        return gone

    def residency(self) -> list[Residency]:
        """Every adapter in a slot or in host memory. For those on disk: `AdapterFiles.resident`."""
        slots, pinned = self.slots.resident(), self.slots.pinned()
        found = [Residency(*key, "slot", users, key in pinned) for key, users in slots.items()]
        host = (key for key in self.host.resident() if key not in slots)
        return found + [Residency(*key, "host", pinned=key in pinned) for key in host]
