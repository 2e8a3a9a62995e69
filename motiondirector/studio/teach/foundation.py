"""What a training of the served foundation does when nothing else is said. Read without the model, in a thread."""

from __future__ import annotations

from datasets.clip_sets.select import Selection
from models.locating import FoundationFacts, foundation_facts
from motiondirector.service.orders import selection_of
from serving.http.service import VideoService
from serving.threads import Threads
from training.recommended import resolve

THREADS = Threads("studio-foundation", 1)  # may look the model up on the hub


async def served_facts(service: VideoService) -> FoundationFacts:
    """The facts of the served foundation. Raises Unavailable while no engine has said which it is."""
    info = await service.info()
    return await THREADS.run(foundation_facts, service.config.foundation, info.fingerprint)


async def usual_selection(service: VideoService) -> Selection:
    """What a training without settings cuts out of a video. Raises as `served_facts`."""
    facts = await served_facts(service)
    return selection_of(resolve({}, facts.recommended), facts.sizes)
