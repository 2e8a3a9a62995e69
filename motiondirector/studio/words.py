"""Words for people in place of the trade's: states, strengths, scores."""

from __future__ import annotations

from collections.abc import Sequence

from serving.schemas import AdapterUsed, Video

SPRITES = "sprites"  # the embedded model's name
# Prompts to start with. The embedded model knows these words; other models know more.
SPRITE_PROMPTS = (
    "a red star on a navy background",
    "a green heart on a beige checkerboard",
    "a yellow moon on a purple gradient",
    "a white cross on a teal checkerboard",
    "an orange ring on a gray background",
    "a purple circle on a beige background",
)
PROMPTS = (
    "a bear walking in the snow",
    "a paper boat on a pond",
    "an astronaut on a beach at sunset",
    "a red balloon over a city",
)
CLOSE = ((0.9, "very closely"), (0.7, "closely"), (0.4, "roughly"), (-1.0, "only loosely"))


def prompts_for(foundation: str | None) -> Sequence[str]:
    """Prompts to start with for a foundation; without one (no engine has answered yet), the embedded model's."""
    return SPRITE_PROMPTS if foundation in (None, SPRITES) else PROMPTS


def closeness(fidelity: float) -> str:
    """Motion fidelity (at most 1) in words."""
    return next(words for least, words in CLOSE if fidelity >= least or least == -1.0)


def state(video: Video) -> str:
    """What is happening with a video."""
    match video.status:
        case "queued":
            if not video.queue_position:
                return "Next in line"
            return f"Waiting: {video.queue_position} before it"
        case "in_progress":
            return f"Making it: {video.progress} %"
        case "completed":
            return "Done"
        case "cancelled":
            return "Cancelled"
        case _:
            return "Failed"


def motions(video: Video) -> str:
    """What acts on a video, in a few words: "orbit + tilt (half strength)"."""
    parts = dict.fromkeys(
        f"{used.concept}{strength(used)}" for used in video.adapters
    )  # a coupled concept has two adapters with one name
    return " + ".join(parts) or "base model"


def strength(used: AdapterUsed) -> str:
    """How strongly an adapter acts, unless as trained."""
    if isinstance(used.scale, tuple):
        return " (changing strength)"
    return "" if used.scale == 1.0 else f" × {used.scale:g}"


def when(used: AdapterUsed) -> str:
    """In which part of the steps an adapter acts."""
    if used.steps is None or used.steps == (0.0, 1.0):
        return "from start to end"
    start, end = used.steps
    return f"from {start:.0%} to {end:.0%} of the steps"


def sentence(text: str) -> str:
    """An error's sentence with a capital letter."""
    return text[:1].upper() + text[1:]
