"""Resolves a client's request into the request that an engine runs.

`resolve` turns a `CreateVideo` into a `VideoRequest`: names become registry versions and content hashes,
missing values become the foundation's defaults, a missing seed is drawn. Nothing is looked up afterwards,
so a job gives the same frames later, after a restart, or beside other jobs, whatever is published since.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import Conflict, DamagedData, InvalidInput, NotFound
from infra.registry import Registry, Version
from infra.storage.stored import Damaged, convert
from models.adapters.versions import (
    GIVES,
    adapter_files,
    check_folded,
    gives,
    noise_of,
    own_paths,
    own_steps,
)
from models.generation import (
    AdapterSettings,
    GenerationSettings,
    InvertedNoise,
    NoisePrior,
    ResolvedParams,
    filled,
    is_none,
)
from models.sizes import Bucket
from serving.jobs.database import Job
from serving.schemas import (
    AdapterUsed,
    Awaited,
    CreateVideo,
    ImageUsed,
    Lenient,
    LoraPath,
    LoraUse,
    NoisePriorUse,
    NoisePriorUsed,
    VersionFile,
)

PRIORITY_WEIGHT = 8.0  # factor of the share per step of priority


def is_empty(value: tuple[object, ...]) -> bool:
    return not value


class FoundationInfo(BaseModel):
    """A server's description of its model. Sizes in pixels."""

    model_config = ConfigDict(frozen=True)

    name: str
    family: str
    fingerprint: str
    frames: int
    first_frames: int  # valid numbers of frames are first_frames + n * frame_step
    frame_step: int
    height: int
    width: int
    fps: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    slots: dict[str, int]
    rank: int
    max_pixels: int  # frames * height * width of the largest allowed video
    takes_image: bool = False  # its videos begin with a given image
    safe_bytes: int | None = (
        None  # ASCII prompts up to this length are read in full; None: unknown, prompts are not checked
    )


class VideoRequest(ResolvedParams, Lenient):
    """Everything that the frames of one job depend on, and its scheduling."""

    fps: int
    seed: Annotated[int, Field(ge=0)]
    adapters: tuple[AdapterUsed, ...] = ()
    noise_prior: Annotated[NoisePriorUsed | None, Field(exclude_if=is_none)] = None
    image: Annotated[ImageUsed | None, Field(exclude_if=is_none)] = None
    awaits: Annotated[tuple[Awaited, ...], Field(exclude_if=is_empty)] = ()  # not among its adapters yet
    foundation: str | None = None  # fingerprint of the required model; None: any
    # The frames do not depend on the following fields.
    tenant: str = ""  # owner of the fair share that it uses
    priority: Annotated[int, Field(ge=-2, le=2)] = 0  # each step is PRIORITY_WEIGHT times the share
    deadline: float | None = None  # Unix seconds after which it is no longer started
    warnings: tuple[str, ...] = ()  # parts of the request without effect, reported to the caller
    remixed_from: Annotated[str | None, Field(max_length=64, exclude_if=is_none)] = (
        None  # id of the job that it remixes
    )
    learns: Annotated[bool, Field(exclude_if=lambda learns: not learns)] = False  # it began with `awaits`

    @property
    def noise_file(self) -> NoisePriorUsed | None:
        """The file of its noise prior; None without a prior, and if it has the latents (serving/local.py)."""
        return self.noise_prior if isinstance(self.noise_prior, NoisePriorUsed) else None

    @property
    def version_files(self) -> tuple[VersionFile, ...]:
        """The files of versions that it needs: adapters, and its noise prior."""
        return (*self.adapters, *([self.noise_file] if self.noise_file else []))

    @property
    def needs_registry(self) -> bool:
        """Whether it needs files of the registry: adapters or a noise prior."""
        return bool(self.adapters or self.noise_file)

    @property
    def pixels(self) -> int:
        return self.frames * self.height * self.width

    def percent(self, done: int, of: int) -> int:
        """The job's progress after so many denoising steps. What it learns before them is the first half."""
        share = min(99, 100 * done // of)
        return 50 + share // 2 if self.learns else share


def request_of(job: Job) -> VideoRequest:
    """The request of an accepted job. Raises DamagedData ("job_damaged") if the stored one is invalid."""
    try:
        return convert(VideoRequest, job.request)
    except Damaged as error:
        raise DamagedData(
            f"the request of video {job.id[:80]} is damaged in the job database ({error}); delete the video and request "
            "it again.",
            code="job_damaged",
        ) from None


def texts_to_check(request: VideoRequest, info: FoundationInfo) -> list[str]:
    """The texts of a request that may be longer than the text encoder reads."""
    safe = info.safe_bytes
    texts = [request.prompt] + ([request.negative_prompt] if request.guidance_scale > 1 else [])
    return [] if safe is None else [text for text in texts if len(text) > safe or not text.isascii()]


def rows_of(request: VideoRequest) -> int:
    """Samples per forward: two with classifier-free guidance, and twice as many with `outside: base`."""
    return (2 if request.guidance_scale > 1.0 else 1) * (2 if request.follows_base else 1)


def cost_of(request: VideoRequest) -> float:
    """The work of a request in denoised pixels: pixels of the video x steps x samples per forward."""
    return float(request.pixels * request.steps * rows_of(request))


def parse_model(model: str, name: str) -> str | None:
    """`foundation` -> None; `foundation:concept@version` -> "concept@version". Raises NotFound.

    `name` is the served foundation's name, which is accepted like the word `foundation`.
    """
    head, colon, reference = model.partition(":")
    if head not in ("foundation", name) or (colon and not reference):
        raise NotFound(
            f"unknown model {model[:80]!r}; expected `foundation` (here: {name}), `foundation:concept` or "
            "`foundation:concept@version`; GET /v1/models lists them.",
            code="model_not_found",
        )
    return reference or None


def resolve(
    request: CreateVideo, info: FoundationInfo, registry: Registry | None
) -> tuple[VideoRequest, str]:
    """The resolved request, and its full model name (`foundation:concept@version`).

    Raises NotFound (model, concept), Conflict (adapter of another foundation), InvalidInput (size, length).
    """
    reference = parse_model(request.model, info.name)
    adapters: list[AdapterUsed] = []
    model = "foundation"
    if reference:
        adapters += resolve_adapters(LoraUse(name=reference), info, registry)
        model = f"foundation:{adapters[0].ref}"
    adapters += [used for use in request.lora for used in resolve_adapters(use, info, registry)]
    width, height = map(int, request.size.split("x")) if request.size else (info.width, info.height)
    frames = request.frames or info.frames
    if request.seconds is not None:
        frames = nearest_frames(float(request.seconds), info)
    noise_prior = None
    if request.noise_prior is not None:
        named = adapters[0].ref if reference else None
        noise_prior = resolve_noise(request.noise_prior, named, Bucket(frames, height, width), info, registry)
    resolved = VideoRequest(
        **filled(request.settings, dict(info)),
        prompt=request.prompt,
        frames=frames,
        height=height,
        width=width,
        fps=info.fps,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        adapters=tuple(adapters),
        noise_prior=noise_prior,
        foundation=info.fingerprint,
    )
    return check_resolved(resolved, info), model


def check_resolved(request: VideoRequest, info: FoundationInfo) -> VideoRequest:
    """The request with the warnings about its adapters (`notes_on`), in place of any that it has.

    Raises InvalidInput for a larger video than the server makes, and for regions that do not fit the video.
    """
    if request.pixels > info.max_pixels:
        raise InvalidInput(
            f"{request.width}x{request.height} with {request.frames} frames is {request.pixels} pixels, but this server "
            f"makes videos of at most {info.max_pixels}; request a smaller size or fewer frames.",
            code="too_large",
        )
    request.check_outside()
    return request.model_copy(update={"warnings": tuple(dict.fromkeys(notes_on(request)))})


def notes_on(request: VideoRequest) -> Iterator[str]:
    """Warnings about its adapters: no step in the window, a mask of another size. Raises InvalidInput."""
    for used in request.adapters:
        if not any(used.scale_at(step / request.steps) for step in range(request.steps)) and used.scale:
            yield f"none of the {request.steps} steps uses {used.ref}: its `steps` or `scale` leave none."
        if used.region is not None:
            yield from used.region.check(request.bucket, f"the region of {used.concept}")


def nearest_frames(seconds: float, info: FoundationInfo) -> int:
    """The number of frames closest to a length in seconds, among those that the foundation can make."""
    steps = round((seconds * info.fps - info.first_frames) / info.frame_step)
    return info.first_frames + max(0, steps) * info.frame_step


def find_version(name: str, info: FoundationInfo, registry: Registry | None) -> Version:
    """The version that a request names, of this foundation. Raises NotFound or Conflict."""
    if registry is None:
        raise NotFound(
            f"concept {name!r} was requested, but there is no registry to find it in; start with --registry URI.",
            code="concept_not_found",
        )
    version = registry.resolve(name)
    check_foundation(version, info)
    return version


def resolve_adapters(use: LoraUse, info: FoundationInfo, registry: Registry | None) -> list[AdapterUsed]:
    """Resolve a name to a version's adapters with content hashes: of `path`, or of all it is used with."""
    version = find_version(use.name, info, registry)
    assert registry is not None
    files = adapter_files(version)
    resolved = []
    for path in own_paths(version) if use.path is None else [use.path]:
        if path not in files:
            raise InvalidInput(
                f"{version.ref} has no {path} adapter ({GIVES[path]}), it gives {' and '.join(gives(version))} alone; name a "
                f"concept that gives {GIVES[path]}, or another `path`.",
                code="adapter_path_not_found",
            )
        check_folded(registry, version, path)
        settings = use.settings
        if use.steps is None:
            settings["steps"] = own_steps(version, path)
        resolved.append(
            AdapterUsed(
                **settings,
                concept=version.concept,
                version=version.number,
                path=path,
                sha256=files[path].sha256,
                owner=registry.owner(version.concept),
            )
        )
    return resolved


def resolve_noise(
    prior: NoisePriorUse, model: str | None, bucket: Bucket, info: FoundationInfo, registry: Registry | None
) -> NoisePriorUsed:
    """Resolve a name to the file of a version's noise prior for videos of this size.

    Args:
        model: the version that the request's `model` names, which a prior without a concept takes.

    Raises NotFound or Conflict as `find_version`, and InvalidInput for a version without a noise prior.
    """
    name = prior.concept or model
    if name is None:
        raise InvalidInput(
            "noise_prior needs a concept, because `model` names none; give the concept whose noise prior to use.",
            code="noise_prior_missing",
        )
    version = find_version(name, info, registry)
    assert registry is not None
    return NoisePriorUsed(
        weight=prior.weight,
        concept=version.concept,
        version=version.number,
        sha256=noise_of(version, bucket).sha256,
        owner=registry.owner(version.concept),
    )


def names_of(adapters: Iterable[AdapterUsed]) -> list[str]:
    """`concept@version` of each version among the adapters, without duplicates."""
    return list(dict.fromkeys(used.ref for used in adapters))


def check_foundation(version: Version, info: FoundationInfo) -> None:
    """Raise Conflict if a version names another foundation than this one (its file is checked too)."""
    fingerprint = version.metadata.get("foundation_fingerprint")
    if fingerprint is not None and fingerprint != info.fingerprint:
        raise Conflict(
            f"{version.ref} was trained on another foundation ({str(fingerprint)[:12]}) than the one served here "
            f"({info.name}, {info.fingerprint[:12]}); serve that one, or train the concept on this one.",
            code="foundation_mismatch",
        )


def described(use: AdapterUsed) -> str:
    """One adapter in an mp4's metadata: `path:sha256*scale`, then settings that differ from the defaults."""
    usual = AdapterSettings(scale=use.scale).settings
    others = (f",{name}={word(value)}" for name, value in use.settings.items() if value != usual[name])
    return f"{use.path}:{use.sha256}*{word(use.scale)}{''.join(others)}"


def word(value: object) -> str:
    """A setting without spaces: numbers as 0.5 or 0/0.5."""
    if isinstance(value, tuple):
        return "/".join(map(word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def described_noise(prior: NoisePrior | None) -> dict[str, str]:
    """The entry of a noise prior in an mp4's metadata: `source*weight`; none without one."""
    if prior is None:
        return {}
    assert isinstance(prior, NoisePriorUsed | InvertedNoise)
    return {"noise_prior": f"{prior.source}*{prior.weight:g}"}


def metadata(request: VideoRequest, fingerprint: str) -> dict[str, str]:
    """The mp4 metadata about its making; identical for the same request, wherever it ran."""
    settings = request.model_dump(include=set(GenerationSettings.model_fields))  # without unused later ones
    made: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        **{name: "default" if value is None else value for name, value in settings.items()},
        "concept": ", ".join(names_of(request.adapters)) or "none",
        "adapters": " ".join(map(described, request.adapters)) or "none",
        **described_noise(request.noise_prior),
        **({} if request.image is None else {"image": request.image.source}),
        "foundation_fingerprint": fingerprint,
    }
    return {key: re.sub(r"[\x00-\x1f]+", " ", str(value)) for key, value in made.items()}


__all__ = [
    "PRIORITY_WEIGHT",
    "AdapterUsed",
    "FoundationInfo",
    "LoraPath",
    "VideoRequest",
    "check_foundation",
    "cost_of",
    "metadata",
    "names_of",
    "parse_model",
    "request_of",
    "resolve",
    "resolve_adapters",
    "rows_of",
]
