"""Turns a request's final latents into the video, in parallel to the denoising steps."""

from __future__ import annotations

import hashlib
import time

import torch

from datasets.video.writing import encode_mp4
from infra.errors import InvalidInput
from models.denoise import finish
from models.foundations.base import Foundation
from serving.engine.request_state import RequestState
from serving.events import Finished
from serving.requests import metadata


def package(foundation: Foundation, ticket: RequestState) -> Finished:
    """Latents -> frames -> mp4 with metadata about its making. Raises InvalidInput if they are not finite."""
    assert ticket.state is not None
    started = time.monotonic()
    if not bool(torch.isfinite(ticket.state.latents_1Cfhw).all()):
        raise InvalidInput(
            "the model's answer is not finite; lower guidance_scale or the adapters' scales.",
            code="not_finite",
        )
    frames_FHWC = finish(foundation, ticket.state)
    request = ticket.request
    mp4 = encode_mp4(frames_FHWC, request.fps, metadata=metadata(request, foundation.fingerprint))
    ticket.timings["decode"] = time.monotonic() - started
    return Finished(
        mp4,
        hashlib.sha256(mp4).hexdigest(),
        dict(ticket.timings),
        neighbours=ticket.neighbours,
        batch_adapters=ticket.batch_adapters,
    )
