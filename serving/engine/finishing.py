"""Turns latents into videos and previews, in parallel to the denoising steps."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from datasets.video.writing import encode_mp4
from infra.errors import Conflict, InvalidInput, NotFound
from models.denoise import finish
from models.foundations.base import Foundation
from serving.engine.failures import failure_of
from serving.engine.preview import render
from serving.engine.request_state import RequestState
from serving.engine.request_table import RequestTable
from serving.events import Cancelled, Event, Finished
from serving.requests import metadata


class Finisher:
    """Decodes and encodes one video or preview at a time, in its own thread.

    Args:
        end: called in that thread with each request and its final event.
    """

    def __init__(
        self, foundation: Foundation, requests: RequestTable, end: Callable[[RequestState, Event], None]
    ) -> None:
        self._foundation, self._requests, self._end = foundation, requests, end
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._lock = threading.Lock()  # guards the previews of requests
        self.lost: Exception | None = None  # the error, if the device was lost while decoding a video

    def finish(self, state: RequestState) -> None:
        """Make the video of a request whose latents are done, and end the request; does not wait."""
        self._thread.submit(self._finish, state)

    def preview(self, id: str) -> Future[bytes]:
        """A preview of a request that is being denoised: a small WebP of one frame.

        It does not change the result. Calls before the next step, or while a preview is being decoded, share
        one. Raises NotFound if the engine does not have the request, and Conflict if there is no estimate yet
        (or never, with some schedulers).
        """
        state = self._requests.get(id)
        if state is None:
            raise NotFound(
                f"{id} is not being made here: it has ended, or another engine makes it.",
                code="video_not_found",
            )
        with self._lock:
            x0 = state.denoising.x0_1Cfhw if state.denoising is not None else None
            if x0 is None:
                raise Conflict(f"{id} has no preview yet; ask again after its next step.", code="no_preview")
            shown = state.preview
            if shown is None or (shown[1].done() and shown[0] is not x0):
                shown = state.preview = (x0, self._thread.submit(render, self._foundation, x0))
            return shown[1]

    def shutdown(self) -> None:
        """Finish the video in progress and drop the others."""
        self._thread.shutdown(cancel_futures=True)

    def _finish(self, state: RequestState) -> None:
        event: Event
        try:
            event = Cancelled() if state.cancelled else package(self._foundation, state)
        except Exception as error:
            try:
                event = failure_of(error, self._foundation.device)
            except Exception as lost:  # the engine's thread raises it and ends all requests
                self.lost = lost
                self._requests.wake()
                return
        self._end(state, event)
        self._requests.wake()


def package(foundation: Foundation, state: RequestState) -> Finished:
    """Latents -> frames -> mp4 with metadata about its making. Raises InvalidInput if they are not finite."""
    assert state.denoising is not None
    started = time.monotonic()
    if not bool(torch.isfinite(state.denoising.latents_1Cfhw).all()):
        raise InvalidInput(
            "the model's answer is not finite; lower guidance_scale or the adapters' scales.",
            code="not_finite",
        )
    frames_FHWC = finish(foundation, state.denoising)
    request = state.request
    mp4 = encode_mp4(frames_FHWC, request.fps, metadata=metadata(request, foundation.fingerprint))
    state.timings["decode"] = time.monotonic() - started
    state.timings["device"] = state.device_seconds + state.timings["decode"]
    return Finished(
        mp4,
        hashlib.sha256(mp4).hexdigest(),
        dict(state.timings),
        neighbours=state.neighbours,
        batch_adapters=state.batch_adapters,
    )
