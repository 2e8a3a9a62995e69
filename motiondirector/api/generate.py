"""Makes one video, in this process or on a server, with the same frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from infra.errors import UserError
from infra.registry import DEFAULT_REGISTRY
from infra.setting import setting
from models.dtypes import Dtype
from models.generation import GenerationSettings
from motiondirector.api.lora import EXAMPLE, Lora, with_region

if TYPE_CHECKING:
    import numpy as np

    from models.foundations.base import Bucket, Foundation
    from models.generation import InvertedNoise
    from serving.schemas import CreateVideo

MOTION = "Motion and appearance"
PRIOR = "Noise prior"
VIDEO = "Video"
MODEL = "Model (without --server)"

Progress = Callable[[str, int, int, str], None]  # (what, done, total, a note)


class GenerateConfig(GenerationSettings):
    """How a video is made: the options of `motiondirector generate`. None: the model's default."""

    concept: str | None = setting(None, MOTION, "Motion to use: NAME (its latest version) or NAME@VERSION.")
    scale: float = setting(1.0, MOTION, "Strength of the motion: 1 as trained, 0 none.")
    until: float | None = setting(
        None,
        MOTION,
        "First part of the denoising steps in which the motion acts: 0.5 the first half, 1 all. Absent: as it was trained for.",
    )
    appearance: str | None = setting(
        None, MOTION, "Appearance to use: NAME or NAME@VERSION (its spatial adapter)."
    )
    appearance_scale: float = setting(1.0, MOTION, "Strength of the appearance.")
    appearance_until: float = setting(
        1.0, MOTION, "First part of the denoising steps in which the appearance acts."
    )
    lora: Lora = setting(
        [],
        MOTION,
        f"A further adapter, such as {EXAMPLE}; repeatable. NAME or NAME@VERSION, then any of scale (several numbers: one "
        "for each phase of its steps), steps (FROM-TO, fractions of the denoising steps), path (temporal or spatial), region "
        "(LEFT,TOP,RIGHT,BOTTOM as fractions of the frame; more numbers are corners X,Y,...; or a file: a picture or video "
        "that is white where the adapter acts, or YAML with keyframes), feather (width of the region's soft edge), unit "
        "(fraction or pixels).",
    )
    outside: Literal["base"] | None = setting(
        None, MOTION, "base: outside all regions, the base model's video. Takes twice as long."
    )
    noise_prior: float | None = setting(
        None,
        PRIOR,
        "Start from the noise of a reference clip with this weight: p in sqrt(p) * inverted + sqrt(1 - p) * noise. The paper "
        "uses 0.1 to 0.5 for a motion of one clip.",
        ge=0,
        le=1,
    )
    prior_concept: str | None = setting(
        None,
        PRIOR,
        "Concept whose noise prior is used: NAME or NAME@VERSION, trained with --noise-prior. Absent: --concept.",
    )
    prior_clip: str | None = setting(
        None,
        PRIOR,
        "Clip whose noise is used, instead of a concept's: a video file, or SET#CLIP for a clip of a clip set. Not with "
        "--server.",
    )
    seed: int | None = setting(
        None, VIDEO, "Random seed: the same seed gives the same video. Absent: drawn and printed."
    )
    steps: int | None = setting(None, VIDEO, "Denoising steps. Absent: the model's default.")
    guidance_scale: float | None = setting(None, VIDEO, "How closely to follow the prompt.")
    negative_prompt: str | None = setting(None, VIDEO, "What the video should not show.")
    size: str | None = setting(None, VIDEO, "WIDTHxHEIGHT in pixels.")
    frames: int | None = setting(None, VIDEO, "Length in frames.")
    scheduler: str | None = setting(None, VIDEO, "For example ddim, dpm++ or flow-euler.")
    foundation: str | None = setting(None, MODEL, "Model folder or hub id. Absent: the embedded one.")
    device: str | None = setting(None, MODEL, "cpu, cuda, cuda:1 ... Absent: a GPU if there is one.")
    dtype: Dtype | None = setting(
        None,
        MODEL,
        "Precision of the model. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16|fp16",
    )

    @model_validator(mode="after")
    def _whose_noise(self) -> Self:
        if self.noise_prior is None and (self.prior_concept or self.prior_clip):
            raise ValueError("--prior-concept and --prior-clip need a weight; add --noise-prior, such as 0.3")
        if self.prior_concept and self.prior_clip:
            raise ValueError("--prior-concept and --prior-clip are both given; give one of them")
        if self.noise_prior is not None and not (self.prior_clip or self.prior_concept or self.concept):
            raise ValueError(
                "--noise-prior needs a concept or a clip whose noise it uses; give --concept, --prior-concept or --prior-clip"
            )
        return self


@dataclass(frozen=True)
class Video:
    """A video and how it was made. The mp4's metadata has the same facts, and the adapters' hashes."""

    mp4: bytes
    used: str  # the motion's version, or "foundation"
    seed: int
    steps: int
    size: str  # WIDTHxHEIGHT
    length: int  # frames
    warnings: tuple[str, ...] = ()

    @property
    def frames_FHWC(self) -> np.ndarray:
        """The frames, decoded: uint8 [frames, height, width, 3]."""
        from datasets.video.decode import decode

        return decode(self.mp4).frames_FHWC

    def save(self, path: str | Path) -> Path:
        """Write the mp4 atomically; creates its folder."""
        from infra.files import atomic_file

        with atomic_file(Path(path)) as temporary:
            temporary.write_bytes(self.mp4)
        return Path(path)

    def __str__(self) -> str:
        return f"{self.used}, seed {self.seed}, {self.steps} steps, {self.size}, {self.length} frames"


def generate(
    prompt: str,
    config: GenerateConfig | None = None,
    *,
    registry: str = DEFAULT_REGISTRY,
    server: str | None = None,
    on_progress: Progress = lambda what, done, total, note: None,
) -> Video:
    """Make one video from a prompt, with a learned motion.

    Args:
        prompt: what the video shows.
        config: motion, seed, size, model and more; the command's options.
        registry: folder or s3:// URI of the concepts. Ignored with a server, which has its own.
        server: URL of a running `motiondirector serve`; None: load the model here.
        on_progress: called with (what, done, total, note), like `motiondirector.progress.Bars`.

    Raises:
        UserError: the same errors as a server's: no such concept, a size that the model does not support, ...
    """
    config = config or GenerateConfig()
    body, notes = read_body(prompt, config)
    if server and config.prior_clip:
        raise UserError(
            "--prior-clip cannot be used with --server, which only takes the noise prior of a concept; give --prior-concept, "
            "or leave --server out."
        )
    if server:
        video = from_server(body, server, on_progress)
    else:
        video = in_process(body, config, registry, on_progress)
    return replace(video, warnings=(*notes, *video.warnings))


def read_body(prompt: str, config: GenerateConfig) -> tuple[CreateVideo, list[str]]:
    """The request, checked as on a server, and notes about files that were read for it. Raises UserError."""
    from pydantic import ValidationError

    from infra.errors import InvalidInput
    from serving.schemas import CreateVideo

    motion: dict[str, Any] = {"scale": config.scale}
    if config.until is not None:
        motion["until"] = config.until
    as_trained = motion == {"scale": 1.0}
    look = {"scale": config.appearance_scale, "until": config.appearance_until, "path": "spatial"}
    read = [with_region(entry) for entry in config.lora]
    # Each entry, and how its fields are given on the command line.
    entries = [
        *([({"name": config.concept, **motion}, "--")] if config.concept and not as_trained else []),
        *([({"name": config.appearance, **look}, "--appearance-")] if config.appearance else []),
        *((entry, f"--lora {entry.get('name')}: ") for entry, _ in read),
    ]
    prior = {"concept": config.prior_concept or config.concept, "weight": config.noise_prior}
    lora = [entry for entry, _ in entries]
    fields = {
        **config.settings,
        "model": f"foundation:{config.concept}" if config.concept and as_trained else "foundation",
        "prompt": prompt,
        "seed": config.seed,
        "size": config.size,
        "frames": config.frames,
        "lora": lora,
        "noise_prior": None if config.noise_prior is None or config.prior_clip else prior,
    }
    try:
        body = CreateVideo(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(
            f"{option_of(first['loc'], [option for _, option in entries])}: {reason}."
        ) from None
    return body, [note for _, notes in read for note in notes]


def option_of(field: tuple[int | str, ...], options: list[str]) -> str:
    """The option that a field of the request comes from.

    Args:
        options: how the options of each entry of `lora` begin.
    """
    if not field:  # the error concerns several fields
        return "the request"
    if field[0] == "noise_prior":
        return "--prior-concept" if field[-1] == "concept" else "--noise-prior"
    if field[0] != "lora" or len(field) == 1:
        return "--" + "-".join(str(part) for part in field).replace("_", "-")
    begin, rest = options[int(field[1])], [str(part) for part in field[2:]]
    if rest == ["name"]:
        return {"--": "--concept", "--appearance-": "--appearance"}.get(begin, begin + "name")
    return f"{begin}{'.'.join(rest)}" if rest else begin.rstrip(": ")


def from_server(body: CreateVideo, url: str, on_progress: Progress) -> Video:
    """Make the video through a server's API; Ctrl-C cancels the job."""
    from serving.client import Client
    from serving.keys import API_KEY_VARIABLE

    with Client(url, api_key=os.environ.get(API_KEY_VARIABLE)) as client:
        job = client.create(body)
        try:
            done = client.wait(
                job.id,
                lambda video: on_progress("video", video.progress, 100, video.status.replace("_", " ")),
            )
        except KeyboardInterrupt:
            client.cancel(job.id)
            raise
        mp4 = client.content(done.id)
    return Video(mp4, done.model, done.seed, done.steps, done.size, done.frames, tuple(done.warnings))


def in_process(body: CreateVideo, config: GenerateConfig, registry: str, on_progress: Progress) -> Video:
    """Make the video with the model loaded in this process."""
    from infra.files import cache_folder
    from motiondirector.api.noise_prior import check_clip, clip_noise
    from serving.config import make_config
    from serving.local import generate as make
    from serving.requests import names_of

    settings = make_config(
        data_dir=str(cache_folder()),
        max_batch=1,
        registry=registry,
        foundation=config.foundation,
        device=config.device,
        dtype=config.dtype,
    )
    clip, weight = config.prior_clip, config.noise_prior
    if clip is not None:
        check_clip(clip)
    on_progress("loading the model", 0, 1, "")

    def noise_of(foundation: Foundation, bucket: Bucket) -> InvertedNoise:
        assert clip is not None
        assert weight is not None
        on_progress("loading the model", 1, 1, "")
        return clip_noise(
            clip,
            weight,
            foundation,
            bucket,
            lambda step, steps: on_progress("inverting the clip", step, steps, ""),
        )

    def stepped(step: int, steps: int) -> None:
        on_progress("loading the model", 1, 1, "")
        on_progress("denoising", step, steps, "")

    mp4, request = make(body, settings, stepped, None if clip is None else noise_of)
    used = " + ".join(names_of(request.adapters)) or "foundation"
    size = f"{request.width}x{request.height}"
    return Video(mp4, used, request.seed, request.steps, size, request.frames, tuple(request.warnings))
