"""Makes one video in this process, without a server, with the same engine and the same frames."""

from __future__ import annotations

from collections.abc import Callable

from infra.registry import open_registry
from models.foundations.base import Bucket, Foundation
from models.generation import InputImage, InvertedNoise
from serving.config import ServeConfig
from serving.events import Cancelled, Event, Failed, Finished, Progressed
from serving.ray.engine_service import build_engine, describe
from serving.requests import VideoRequest, resolve
from serving.schemas import CreateVideo


def generate(
    body: CreateVideo,
    config: ServeConfig,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    noise: Callable[[Foundation, Bucket], InvertedNoise] | None = None,
    image: InputImage | None = None,
) -> tuple[bytes, VideoRequest]:
    """The mp4 and the resolved request (with its seed and its adapters' versions and hashes).

    Args:
        on_step: called with (steps done, steps in total).
        noise: makes a noise prior for a video of this size, in place of one that the request names.
        image: the image that the video begins with.

    Raises:
        UserError: the error that a server would answer.
    """
    engine = build_engine(config)
    try:
        registry = open_registry(config.registry) if config.registry else None
        request, _model = resolve(body, describe(engine.foundation, config), registry)
        request = request.model_copy(update={"image": image})
        engine.check(request).result()
        if noise is not None:
            prior = noise(engine.foundation, request.bucket)
            request = request.model_copy(update={"noise_prior": prior})
        limit = engine.foundation.text_limit
        unread = [limit.warning(text, "prompt") for text in (request.prompt, request.negative_prompt)]
        warnings = (*request.warnings, *(text for text in unread if text))
        request = request.model_copy(update={"warnings": warnings})
        last: list[Event] = []

        def listen(event: Event) -> None:
            if isinstance(event, Progressed):
                on_step(event.step, event.steps)
            elif isinstance(event, Finished | Failed | Cancelled):
                last.append(event)

        engine.submit("local", request, listen)
        engine.run_until_idle()
    finally:
        engine.close()
    match last:
        case [Finished() as finished]:
            return finished.mp4, request
        case [Failed() as failed]:
            raise failed.error
    raise AssertionError(f"the engine ended without an answer: {last}")
