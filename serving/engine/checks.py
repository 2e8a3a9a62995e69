"""Checks a request against the resident model and its slots, before anything is loaded for it."""

from __future__ import annotations

from infra.errors import InvalidInput
from models.foundations.base import Foundation
from models.lora.bank import AdapterBank
from serving.requests import VideoRequest


def check_possible(request: VideoRequest, foundation: Foundation, bank: AdapterBank) -> None:
    """Raise InvalidInput for a size, scheduler or number of adapters that the engine can never serve."""
    if request.height % 2 or request.width % 2:
        raise InvalidInput(
            f"size {request.width}x{request.height}: an mp4 needs an even width and an even height; "
            "choose even numbers.",
            code="invalid_size",
        )
    foundation.check_bucket(request.bucket)
    foundation.make_scheduler(request.scheduler)
    for path, slots in bank.slots.items():
        count = len({use.sha256 for use in request.adapters if use.path == path})
        if count > slots:
            raise InvalidInput(
                f"the request combines {count} {path} adapters and this server has {slots} slots for them; "
                "name fewer.",
                code="too_many_adapters",
            )
