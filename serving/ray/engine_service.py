"""The engine's asynchronous interface, which the ingress calls in the same process or through Ray.

Answers and refusals are values (an event or None), so they can be sent between processes. An exception
means that the engine itself is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from infra.errors import Unavailable, UserError
from infra.registry import open_registry
from models.foundations.base import Bucket, Foundation
from models.load import load_foundation
from models.lora.routing import LoraPath
from serving.adapters.files import AdapterFiles
from serving.adapters.slot_plan import SlotPlan, bytes_per_rank, plan_slots
from serving.config import ServeConfig
from serving.engine.engine import Engine
from serving.engine.stats import EngineStats
from serving.engine_client import EngineLost, Residency
from serving.events import (
    Admitted,
    Cancelled,
    Event,
    Failed,
    Finished,
    FoundationChanged,
    Observe,
    unobserved,
)
from serving.ray import routing
from serving.ray.autoscaling import NEVER, Load
from serving.requests import AdapterUsed, FoundationInfo, VideoRequest

LOAD_TIMEOUT = 100.0  # seconds for adapters to load; an ingress waits a little longer for a prefetch


def describe(foundation: Foundation, config: ServeConfig) -> FoundationInfo:
    """The description of a server with this model and configuration."""
    defaults, bucket, plan = foundation.defaults, foundation.defaults.bucket, plan_of(foundation, config)
    first, second = itertools.islice(
        (n for n in range(1, 1025) if fits(foundation, Bucket(n, bucket.height, bucket.width))), 2
    )
    return FoundationInfo(
        name=foundation.name,
        family=foundation.family,
        fingerprint=foundation.fingerprint,
        frames=bucket.frames,
        first_frames=first,
        frame_step=second - first,
        height=bucket.height,
        width=bucket.width,
        fps=defaults.fps,
        steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        negative_prompt=defaults.negative_prompt,
        slots={str(path): n for path, n in plan.slots.items()},
        rank=plan.rank,
        max_pixels=config.max_pixels or 4 * bucket.frames * bucket.height * bucket.width,
        takes_image=foundation.takes_image,
        safe_bytes=foundation.text_limit.safe_bytes,
    )


def plan_of(foundation: Foundation, config: ServeConfig) -> SlotPlan:
    """The slots of a configuration. Raises UserError if its slot memory is too small for one."""
    if config.slot_memory is None:
        return SlotPlan({"temporal": config.slots, "spatial": config.spatial_slots}, config.rank)
    given = config.model_fields_set
    slots: dict[LoraPath, int] = {"temporal": config.slots, "spatial": config.spatial_slots}
    return plan_slots(
        bytes_per_rank(foundation),
        config.slot_memory,
        rank=config.rank if "rank" in given else None,
        slots=slots if {"slots", "spatial_slots"} & given else None,
    )


def fits(foundation: Foundation, bucket: Bucket) -> bool:
    """Whether the model can make a video of this size."""
    try:
        foundation.check_bucket(bucket)
    except UserError:
        return False
    return True


def build_engine(config: ServeConfig, observe: Observe = unobserved) -> Engine:
    """Build an engine and load its model, without starting it.

    Raises UserError for a foundation that cannot be loaded, and for warm-up sizes that it cannot make.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.compile and config.quantize != "none":
        raise UserError(f"compile does not suit quantize {config.quantize}; leave one of them out.")
    foundation = load_foundation(config.foundation, **config.loading)
    if config.compile and not foundation.compiles:
        raise UserError(
            f"{foundation.name} cannot be compiled: its forward depends on the timesteps or on an image; leave compile out."
        )
    if config.adapter_layers == "all":
        foundation.widen()
    sizes = [Bucket.parse(size) for size in config.warm_sizes]
    for size in sizes:
        foundation.check_bucket(size)
    plan = plan_of(foundation, config)
    bank = foundation.add_bank(plan.slots, plan.rank)
    registry = open_registry(config.registry) if config.registry else None
    folder = Path(config.data_dir).absolute() / "adapters"
    files = AdapterFiles(registry, foundation, folder, config.disk_cache)
    threading.Thread(target=files.forget_erased, name="forget-erased", daemon=True).start()
    return Engine(
        foundation,
        bank,
        files,
        max_batch=config.max_batch,
        host_bytes=config.host_memory,
        batch_bytes=config.batch_memory,
        compile=config.compile,
        warm_buckets=sizes or None,
        observe=observe,
    )


class Stream:
    """The events of one running request, for any number of listeners (a restarted ingress asks again)."""

    def __init__(self, id: str) -> None:
        self.id = id  # of the request in the engine
        self.admitted: Admitted | None = None
        self.queues: list[asyncio.Queue[Event]] = []

    def push(self, event: Event) -> None:
        if isinstance(event, Admitted):
            self.admitted = event
        for queue in self.queues:
            queue.put_nowait(event)


class EngineService:
    """Loads the model once and answers requests (an `EngineClient` of one engine).

    After the engine's death, `describe`, `check` and `generate` raise `EngineLost`, also in running requests.

    Args:
        name: identifies this engine in `residency`.
    """

    def __init__(self, config: ServeConfig, observe: Observe = unobserved, *, name: str = "engine") -> None:
        self.name = name
        self.engine = build_engine(config, observe)
        self._info = describe(self.engine.foundation, config)
        self.engine.start()
        self._streams: dict[str, Stream] = {}
        self._numbers = itertools.count()
        self._backlog, self._backlog_at = 0.0, -NEVER
        self._revision, self._pinning = 0, asyncio.Lock()  # of the pinned adapters

    async def describe(self) -> FoundationInfo:
        self.healthy()
        return self._info

    async def check(self, request: VideoRequest) -> Failed | None:
        self.healthy()
        return self._refuse_other_foundation(request) or await self._try(self.engine.check, request)

    def _refuse_other_foundation(self, request: VideoRequest) -> Failed | None:
        """The refusal of a request for another model (the caller knew an earlier engine); else None."""
        if request.foundation in (None, self._info.fingerprint):
            return None
        message = (
            f"the request is for a foundation ({request.foundation[:12]}) that this engine no longer serves "
            f"(now: {self._info.name}, {self._info.fingerprint[:12]}); send it again."
        )
        return Failed(FoundationChanged(message))

    async def unread(self, prompts: Sequence[str]) -> list[str | None]:
        self.healthy()
        limit = self.engine.foundation.text_limit
        return await asyncio.to_thread(lambda: [limit.warning(prompt, "prompt") for prompt in prompts])

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        self.healthy()
        if (refused := self._refuse_other_foundation(request)) is not None:
            yield refused
            return
        loop = asyncio.get_running_loop()
        stream = self._streams.get(id)
        queue: asyncio.Queue[Event] = asyncio.Queue()
        is_new = stream is None
        if stream is None:
            stream = self._streams[id] = Stream(f"{id}/{next(self._numbers)}")
        push = stream.push

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(push, event)

        stream.queues.append(queue)
        try:
            if is_new:
                self.engine.submit(stream.id, request, tell)
            elif stream.admitted is not None:
                queue.put_nowait(stream.admitted)
            while True:
                event = await queue.get()
                if isinstance(event, Failed):
                    self.healthy()  # raises if the engine failed: the request may run elsewhere
                yield event
                if isinstance(event, Finished | Failed | Cancelled):
                    return
        finally:
            stream.queues.remove(queue)
            if not stream.queues:
                if self._streams.get(id) is stream:
                    del self._streams[id]
                self.engine.cancel(stream.id)

    async def preview(self, id: str) -> bytes | Failed:
        """A small WebP of a request that is being denoised, or why there is none."""
        stream = self._streams.get(id)
        try:
            picture = asyncio.wrap_future(self.engine.finisher.preview(stream.id if stream else id))
            return await asyncio.shield(picture)  # others may also wait for it
        except Exception as error:
            return Failed.of(error)

    async def prefetch(self, use: AdapterUsed) -> list[Failed | None]:
        """Load an adapter into memory; returns the reason of a failure, or None."""
        return [await self._try(self.engine.adapters.prefetch, [use])]

    async def set_pins(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        """Pin exactly these, unless a later revision has already arrived."""
        async with self._pinning:
            if revision >= self._revision:
                self._revision = revision
                await asyncio.to_thread(self.engine.adapters.set_pinned, uses)
        return 1

    async def forget(self, hashes: Sequence[str]) -> bool:
        """Remove erased files from slots, memory and disk; False if one is still used."""
        self.healthy()
        return await asyncio.to_thread(self.engine.adapters.forget, hashes)

    async def residency(self) -> dict[str, list[Residency]]:
        return {self.name: self.engine.adapters.residency()}

    async def stats(self) -> EngineStats:
        return self.engine.stats()

    async def backlog(self, work: float) -> int:
        self._backlog, self._backlog_at = work, time.monotonic()
        return 1

    def routing_report(self) -> dict[str, Any]:
        """The data for `serving.ray.routing.Report`: lists of adapters and a number, as JSON types."""
        self.healthy()  # a dead engine has no work and would look best
        stats, residency = self.engine.stats(), self.engine.adapters.residency()
        named = [(routing.key(held.path, held.sha256), held) for held in residency]
        return {
            "work": stats.work,
            "slots": sorted(name for name, held in named if held.tier == "slot"),
            "host": sorted(name for name, held in named if held.tier == "host")[: routing.MAX_HOST],
            "full": sorted(path for path, free in stats.free_slots.items() if not free),
        }

    def load(self) -> Load:
        """The load, from which the autoscaler computes the number of engines."""
        stats = self.engine.stats()
        return Load(stats.work, stats.pace, self._backlog, time.monotonic() - self._backlog_at)

    async def _try(self, begin: Callable[..., Future[None]], *args: object) -> Failed | None:
        """Start work in a thread and wait for its future without a thread, so a slow registry blocks none."""
        try:
            going = await asyncio.to_thread(begin, *args)
            async with asyncio.timeout(LOAD_TIMEOUT):
                await asyncio.wrap_future(going)
        except TimeoutError:
            message = f"the adapters were not loaded within {LOAD_TIMEOUT:g} s, because the registry is slow; try again later."
            return Failed(Unavailable(message, code="adapter_slow"))
        except Exception as error:
            return Failed.of(error)
        return None

    def healthy(self) -> None:
        """Raise EngineLost if the engine's thread has died."""
        if self.engine.failure is not None:
            raise EngineLost("the engine's thread has died") from self.engine.failure

    def close(self) -> None:
        """Stop the engine's thread."""
        self.engine.close()
