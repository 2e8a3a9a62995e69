"""Which adapter is in which slot of the bank, and the way there.

registry -> verified file on local disk -> checked tensors in host memory -> slot. The key everywhere is the file's
content hash, so a new version of a concept never changes a running job. `fetch` may take long and runs beside the
denoising; `acquire` is one copy and runs between two steps. A slot counts its users from admission to finish: what
is in use is never evicted, what is not goes by least recent use.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path as FilePath

from infra.errors import UserError
from infra.registry import Registry
from infra.storage import atomic_file
from models.adapter import Adapter, read_adapter
from models.bank import AdapterBank
from models.denoise import AdapterUse
from models.foundation import Foundation
from serving.requests import ADAPTER_FILES, AdapterUsed

Fetch = Callable[[AdapterUsed], Adapter]


class AdapterFiles:
    """Adapters from a registry, through verified files on local disk (least recently used ones go).

    Args:
        folder: where the files are kept, under their hashes.
        capacity: how many stay.
    """

    def __init__(
        self, registry: Registry | None, foundation: Foundation, folder: FilePath, capacity: int = 256
    ) -> None:
        self._registry, self._foundation, self._folder, self._capacity = (
            registry,
            foundation,
            folder,
            capacity,
        )
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        self._recent = OrderedDict.fromkeys(file.stem for file in found)
        self._lock = threading.Lock()

    def __call__(self, use: AdapterUsed) -> Adapter:
        """Raises UserError: not in the registry, another file than was promised, malformed, of another foundation."""
        file = self._folder / f"{use.sha256}.safetensors"
        if not file.is_file():
            self._download(use, file)
        name = f"{use.concept}@{use.version}"
        try:
            adapter = read_adapter(file, self._foundation)
            if adapter.sha256 != use.sha256:
                raise UserError(
                    f"{file} was changed after it was fetched; try again.", status=503, code="adapter_damaged"
                )
        except UserError as error:
            file.unlink(missing_ok=True)
            raise UserError(f"{name}: {error.message}", status=error.status, code=error.code) from None
        if adapter.path != use.path:
            message = (
                f"{name}: its file for the {use.path} path holds a {adapter.path} adapter; publish it again."
            )
            raise UserError(message, status=422, code="invalid_adapter")
        with self._lock:
            self._recent[use.sha256] = None
            self._recent.move_to_end(use.sha256)
            old = [self._recent.popitem(last=False)[0] for _ in range(len(self._recent) - self._capacity)]
        for sha256 in old:
            (self._folder / f"{sha256}.safetensors").unlink(missing_ok=True)
        return adapter

    def _download(self, use: AdapterUsed, file: FilePath) -> None:
        """Fetch one file of a version; the registry checks its hash. Appears whole or not at all."""
        if self._registry is None:
            raise UserError(
                f"{use.concept}@{use.version} was asked for, but there is no registry; start with --registry URI.",
                status=404,
                code="concept_not_found",
            )
        version = self._registry.resolve(f"{use.concept}@{use.version}")
        data = self._registry.read(version, ADAPTER_FILES[use.path])
        with atomic_file(file) as temporary:
            temporary.write_bytes(data)


class HostCache:
    """Checked adapters in host memory, by hash; one fetch for however many ask at once. Failures are not kept."""

    def __init__(self, fetch: Fetch, capacity: int = 64) -> None:
        self._fetch, self._capacity = fetch, capacity
        self._ready: OrderedDict[tuple[str, str], Adapter] = OrderedDict()
        self._coming: dict[tuple[str, str], Future[Adapter]] = {}
        self._lock = threading.Lock()

    def get(self, use: AdapterUsed) -> Adapter:
        """The adapter, fetched if need be (blocks). Raises what the fetch raises."""
        key = (use.path, use.sha256)
        with self._lock:
            if key in self._ready:
                self._ready.move_to_end(key)
                return self._ready[key]
            coming = self._coming.get(key)
            mine = coming is None
            if coming is None:
                coming = self._coming[key] = Future()
        if not mine:
            return coming.result()
        try:
            adapter = self._fetch(use)
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            coming.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._ready[key] = adapter
            while len(self._ready) > self._capacity:
                self._ready.popitem(last=False)
        coming.set_result(adapter)
        return adapter


class Lease:
    """The slots of one request, pinned until `release`."""

    def __init__(self, table: SlotTable, keys: Sequence[tuple[str, str]], uses: list[AdapterUse]) -> None:
        self._table, self._keys, self.uses = table, keys, uses

    def release(self) -> None:
        """Give the slots back; what is in them stays until another adapter needs the room."""
        self._table._release(self._keys)
        self._keys = ()


class SlotTable:
    """Adapters in the slots of a bank. Used by the engine's thread alone, between two steps."""

    def __init__(self, bank: AdapterBank) -> None:
        self._bank = bank
        self._free: dict[str, list[int]] = {path: list(range(n, 0, -1)) for path, n in bank.slots.items()}
        self._slots: OrderedDict[tuple[str, str], int] = (
            OrderedDict()
        )  # (path, sha256) -> slot, oldest use first
        self._users: Counter[tuple[str, str]] = Counter()
        self.loads = 0  # copies into the bank so far

    def resident(self) -> Mapping[tuple[str, str], int]:
        """(path, sha256) -> users, of every adapter in a slot."""
        return {key: self._users[key] for key in self._slots}

    def acquire(self, uses: Sequence[AdapterUsed], adapters: Sequence[Adapter]) -> Lease | None:
        """Slots for all adapters of a request, or None (and nothing changed) while others hold them."""
        keys = [(use.path, use.sha256) for use in uses]
        missing = {
            key: adapter for key, adapter in zip(keys, adapters, strict=True) if key not in self._slots
        }
        for path, free in self._free.items():
            idle = sum(
                1 for key in self._slots if key[0] == path and not self._users[key] and key not in keys
            )
            if sum(key[0] == path for key in missing) > len(free) + idle:
                return None
        for key in keys:
            self._users[key] += 1
            if key in self._slots:
                self._slots.move_to_end(key)
        for key, adapter in missing.items():
            slot = self._take(key[0])
            self._bank.write(key[0], slot, adapter.tensors)  # type: ignore[arg-type]
            self._slots[key] = slot
            self.loads += 1
        leased = [
            AdapterUse(use.path, self._slots[key], use.scale) for use, key in zip(uses, keys, strict=True)
        ]
        return Lease(self, keys, leased)

    def _take(self, path: str) -> int:
        if self._free[path]:
            return self._free[path].pop()
        victim = next(key for key in self._slots if key[0] == path and not self._users[key])
        return self._slots.pop(victim)

    def _release(self, keys: Sequence[tuple[str, str]]) -> None:
        for key in keys:
            self._users[key] -= 1
            assert self._users[key] >= 0, key
            if not self._users[key]:
                del self._users[key]
