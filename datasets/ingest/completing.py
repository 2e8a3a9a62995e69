"""Completes captions from what a clip shows. Unnamed looks would be learned as part of the motion.

complete = completer("sprites")                   # the sprite world's own tracker
complete = completer("models/a-captioner")        # folder of a transformers image-to-text model
complete("a star orbits", frames_FHWC)            # "a red striped star orbits on a navy gradient"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from datasets.clip_sets.amend import MAX_CAPTION
from infra.errors import InvalidInput
from infra.paths import expanded
from infra.rows import FORBIDDEN

SPRITES = "sprites"
CONFIDENT = 0.75  # overlap with a known shape; clips of other things score lower
MAX_WORDS = 40  # tokens of a description
QUESTION = (
    "Describe what the picture shows in one short sentence: the subject, its colours and what is behind it."
)
# Words that name no shape; the object's look replaces them.
ANYTHING = re.compile(r"^(?:an? |the )?(?:object|sprite|shape|thing|something|figure|it)\b", re.IGNORECASE)

Complete = Callable[[str, np.ndarray], str]  # (caption, frames [F, H, W, 3] uint8) -> caption


class Incomplete(InvalidInput):
    """A caption that cannot be completed from this clip."""

    default_code = "caption_incomplete"


@lru_cache(maxsize=2)
def completer(given: str) -> Complete:
    """The function that completes captions: for "sprites", or a captioner's folder (loaded once per process).

    Raises:
        InvalidInput: no such folder, or no image-to-text model in it.
    """
    return complete_sprite if given == SPRITES else Captioner(given)


# ------------------------------------------------------------------------------ sprites
def complete_sprite(caption: str, frames_FHWC: np.ndarray) -> str:
    """Add the colour, texture, shape and background that the caption does not name.

    Raises:
        Incomplete: the clip is not of the sprite world, or shows another shape than the caption names.
    """
    from datasets.sprites.captions import spoken
    from datasets.sprites.track import track
    from datasets.sprites.world import SHAPES

    height, width = frames_FHWC.shape[1:3]
    seen = track(frames_FHWC) if height == width else None
    if seen is None or np.mean([detection.confidence >= CONFIDENT for detection in seen.detections]) <= 0.5:
        raise Incomplete(
            "the clip shows no object of the sprite world; use a captioner's folder to complete its caption."
        )
    look = {name: seen.most(name) for name in ("shape", "colour", "texture", "background", "background_kind")}
    said = spoken(caption)
    if said.get("shape", look["shape"]) != look["shape"]:
        raise Incomplete(f"the caption says {said['shape']}, but the clip shows a {look['shape']}.")
    adjectives = [look["colour"]] if "colour" not in said else []
    # If colour and shape are named, a missing texture means plain; otherwise the texture is just unnamed.
    if look["texture"] != "plain" and not re.search(r"\b(?:striped|dotted|plain)\b", caption.lower()):
        adjectives.append(look["texture"])
    words = " ".join(word for word in adjectives if word)
    if "shape" in said:
        caption = re.sub(
            rf"\b({'|'.join(SHAPES)})\b", lambda found: f"{words} {found[0]}".strip(), caption, count=1
        )
    else:
        thing = f"a {words} {look['shape']}".replace("  ", " ")
        caption, replaced = ANYTHING.subn(thing, caption)
        if not replaced:
            caption = f"{thing}, {caption}"
    if "background" not in said:
        behind = {"plain": "background", "gradient": "gradient", "checkered": "checkerboard"}
        caption += f" on a {look['background']} {behind[look['background_kind'] or 'plain']}"
    # Inserted words can give "an star" or "a orange star".
    return re.sub(r"\ban?(?= ([a-z]+))", lambda a: "an" if a[1][0] in "aeiou" else "a", caption)


# ------------------------------------------------------------------------------ real clips
class Captioner:
    """An image-to-text model, such as BLIP or a vision-language model, that describes the middle frame.

    Reads a folder saved by transformers, with safetensors weights only; never runs code from the folder.
    """

    def __init__(self, folder: str) -> None:
        path = expanded(folder)
        if not (path / "config.json").is_file():
            raise InvalidInput(
                f"--complete-captions {folder}: expected `{SPRITES}`, or a folder with a transformers model that describes "
                "images (config.json, *.safetensors, processor).",
                code="invalid_captioner",
            )
        if not any(path.glob("*.safetensors")):
            raise InvalidInput(
                f"--complete-captions {folder}: the folder has no safetensors, and pickled weights are not loaded; save the model "
                "with `save_pretrained(FOLDER, safe_serialization=True)`.",
                code="invalid_captioner",
            )
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor = AutoProcessor.from_pretrained(path, **safe)
            model = AutoModelForImageTextToText.from_pretrained(path, use_safetensors=True, **safe)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidInput(
                f"--complete-captions {folder}: the folder cannot be loaded as an image-to-text model ({reason}).",
                code="invalid_captioner",
            ) from None
        self.name = Path(path).name
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = model.eval().to(self.device)

    def describe(self, frame_HWC: np.ndarray) -> str:
        """The model's description of a picture, uint8 [H, W, 3]; deterministic."""
        import torch
        from PIL import Image

        picture = Image.fromarray(frame_HWC)
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
            given = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            given = self.processor(images=picture, return_tensors="pt")
        given = given.to(self.device)
        with torch.inference_mode():
            ids = self.model.generate(**given, max_new_tokens=MAX_WORDS, do_sample=False)[0]
        if not getattr(self.model.config, "is_encoder_decoder", False) and "input_ids" in given:
            ids = ids[given["input_ids"].shape[1] :]
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return " ".join(FORBIDDEN.sub(" ", text).split()).rstrip(".")

    def __call__(self, caption: str, frames_FHWC: np.ndarray) -> str:
        """The caption plus a description of the middle frame. Raises Incomplete if that is empty."""
        said = self.describe(frames_FHWC[len(frames_FHWC) // 2])
        if not said:
            raise Incomplete(f"{self.name} gives an empty description of the clip.")
        return f"{caption.rstrip('.')}, {said}"[:MAX_CAPTION].rstrip()
