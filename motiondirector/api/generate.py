"""Makes one video, in this process or on a server, with the same frames."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infra.errors import UserError
from infra.registry import DEFAULT_REGISTRY
from infra.setting import setting
from motiondirector.api.lora import EXAMPLE, Lora, with_region
from motiondirector.api.video import MOTION, Progress, Video, VideoConfig

if TYPE_CHECKING:
    from models.foundations.base import Bucket, Foundation
    from models.generation import InputImage, InvertedNoise
    from serving.schemas import CreateVideo


class GenerateConfig(VideoConfig):
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
    appearance_scale: float | None = setting(
        None,
        MOTION,
        "Strength of the appearance. Absent: 1 alone, 0.5 beside --concept or --lora, as at 1 it would hold the object in its "
        "place, whatever the motion.",
    )
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

    @property
    def _motion(self) -> dict[str, Any]:
        """The settings of the motion's adapter."""
        return {"scale": self.scale, **({} if self.until is None else {"until": self.until})}

    @property
    def _as_trained(self) -> bool:
        """Whether the request's `model` says all about the motion."""
        return self._motion == {"scale": 1.0}

    @property
    def _appearance_scale(self) -> float:
        from models.generation import APPEARANCE_SCALE

        if self.appearance_scale is not None:
            return self.appearance_scale
        return APPEARANCE_SCALE if self.concept or self.lora else 1.0

    @property
    def model_name(self) -> str:
        return f"foundation:{self.concept}" if self.concept and self._as_trained else "foundation"

    @property
    def adapters(self) -> list[tuple[dict[str, Any], str]]:
        look = {"scale": self._appearance_scale, "until": self.appearance_until, "path": "spatial"}
        return [
            *(
                [({"name": self.concept, **self._motion}, "--")]
                if self.concept and not self._as_trained
                else []
            ),
            *([({"name": self.appearance, **look}, "--appearance-")] if self.appearance else []),
            *((entry, f"--lora {entry.get('name')}: ") for entry in self.lora),
        ]

    @property
    def whose_noise(self) -> str | None:
        return self.prior_concept or self.concept


def generate(
    prompt: str,
    config: VideoConfig | None = None,
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
        video = from_server(body, server, on_progress, config.image)
    else:
        video = in_process(body, config, registry, on_progress)
    return replace(video, warnings=(*notes, *video.warnings))


def read_body(prompt: str, config: VideoConfig) -> tuple[CreateVideo, list[str]]:
    """The request, checked as on a server, and notes about files that were read for it. Raises UserError."""
    from pydantic import ValidationError

    from infra.errors import InvalidInput
    from serving.schemas import CreateVideo

    read = [(*with_region(entry), option) for entry, option in config.adapters]
    options = [option for _, _, option in read]
    prior = {"concept": config.whose_noise, "weight": config.noise_prior}
    fields = {
        **config.settings,
        "model": config.model_name,
        "prompt": prompt,
        "seed": config.seed,
        "size": config.size,
        "frames": config.frames,
        "lora": [entry for entry, _, _ in read],
        "noise_prior": None if config.noise_prior is None or config.prior_clip else prior,
    }
    try:
        body = CreateVideo(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{option_of(first['loc'], options)}: {reason}.") from None
    return body, [note for _, notes, _ in read for note in notes]


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


def from_server(body: CreateVideo, url: str, on_progress: Progress, image: str | None = None) -> Video:
    """Make the video through a server's API; Ctrl-C cancels the job.

    Args:
        image: file with an image that the video begins with, or shows if the server's model makes videos from text alone.
    """
    from infra.paths import as_written, expanded
    from serving.client import Client
    from serving.keys import API_KEY_VARIABLE
    from serving.requests import names_of

    with Client(url, api_key=os.environ.get(API_KEY_VARIABLE)) as client:
        job = client.create(body, image=None if image is None else as_written(expanded(image)))
        try:
            done = client.wait(
                job.id,
                lambda video: on_progress("video", video.progress, 100, video.status.replace("_", " ")),
            )
        except KeyboardInterrupt:
            client.cancel(job.id)
            raise
        mp4 = client.content(done.id)
    used = done.model if done.model != "foundation" else " + ".join(names_of(done.adapters)) or done.model
    return Video(mp4, used, done.seed, done.steps, done.size, done.frames, tuple(done.warnings))


def in_process(body: CreateVideo, config: VideoConfig, registry: str, on_progress: Progress) -> Video:
    """Make the video with the model loaded in this process."""
    from infra.files import cache_folder
    from motiondirector.api.noise_prior import check_clip, clip_noise
    from motiondirector.library.library import fill_if_new
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
        quantize=config.quantize,
        offload=config.offload,
        adapter_layers=config.adapter_layers,
    )
    clip, weight = config.prior_clip, config.noise_prior
    if clip is not None:
        check_clip(clip)
    image = None if config.image is None else read_image(config.image)
    if ":" in body.model or body.lora or body.noise_prior:  # it names a concept
        fill_if_new(registry, config.foundation)
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

    mp4, request = make(body, settings, stepped, None if clip is None else noise_of, image)
    used = " + ".join(names_of(request.adapters)) or "foundation"
    size = f"{request.width}x{request.height}"
    return Video(mp4, used, request.seed, request.steps, size, request.frames, tuple(request.warnings))


def read_image(path: str) -> InputImage:
    """The image file that a video begins with. Raises UserError."""
    import hashlib

    from datasets.video.still import read_still
    from infra.paths import as_written, expanded
    from models.generation import InputImage

    pixels_HWC = read_still(as_written(expanded(path)), f"image {path}").picture_HWC
    return InputImage(pixels_HWC=pixels_HWC, source=hashlib.sha256(pixels_HWC.tobytes()).hexdigest())
