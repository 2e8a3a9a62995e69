"""A video that was made, as a request: to make it again with one field changed, beside the base model's, or from code."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from serving.schemas import AdapterUsed, CreateVideo, Video

MASKED = "it has a mask, of which the service keeps no image for people; use remix, which repeats it."


def lora_of(adapters: Sequence[AdapterUsed]) -> list[dict[str, Any]]:
    """The entries of `lora` that give these adapters.

    A concept whose motion and appearance act alike is one entry; else each names its path.
    """
    by_name: dict[str, list[AdapterUsed]] = {}
    for used in adapters:
        by_name.setdefault(used.ref, []).append(used)
    entries = []
    for used in adapters:
        same = by_name[used.ref]
        alike = len({json.dumps(settings_of(one), sort_keys=True) for one in same}) == 1
        if alike and used is not same[0]:
            continue
        path = {} if alike and len(same) > 1 else {"path": used.path}
        entries.append({"name": used.ref, **path, **settings_of(used)})
    return entries


def settings_of(used: AdapterUsed) -> dict[str, Any]:
    """How an adapter acts, as JSON, without what is as usual."""
    shown = used.model_dump(mode="json", include={"scale", "steps", "region"}, exclude_none=True)
    if shown.get("scale") == 1.0:
        del shown["scale"]
    if "region" in shown:
        shown["region"] = {key: value for key, value in shown["region"].items() if value is not None}
    return shown


def body_of(video: Video) -> dict[str, Any]:
    """The body of `POST /v1/videos` that makes the same video. A mask is missing: answers have only its hash."""
    body: dict[str, Any] = {"prompt": video.prompt, "seed": video.seed, "size": video.size}
    body |= {"frames": video.frames, **given(video.settings)}
    if lora := lora_of(video.adapters):
        body["lora"] = lora
    if video.noise_prior is not None:
        body["noise_prior"] = {"concept": video.noise_prior.ref, "weight": video.noise_prior.weight}
    return body


def base_of(video: Video) -> CreateVideo:
    """The request for the base model's video of the same prompt, seed and settings."""
    alone = {
        key: value for key, value in body_of(video).items() if key not in ("lora", "noise_prior", "outside")
    }
    return CreateVideo.model_validate(alone)


def given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are absent or empty."""
    return {key: value for key, value in settings.items() if value not in (None, "")}


def has_mask(video: Video) -> bool:
    """Whether it cannot be requested again from its answer alone."""
    return any(used.region is not None and used.region.mask for used in video.adapters)


def as_curl(video: Video, server: str, *, has_keys: bool) -> str:
    """A command that requests the same video and downloads it."""
    key = ' -H "Authorization: Bearer $MOTIONDIRECTOR_API_KEY"' if has_keys else ""
    body = shlex.quote(json.dumps(body_of(video)))
    return (
        f"curl -s {server}/v1/videos{key} \\\n  -H 'Content-Type: application/json' \\\n  -d {body}\n\n"
        f"# then, with the id of the answer:\ncurl -s {server}/v1/videos/ID/content{key} -o video.mp4"
    )


def as_python(video: Video, server: str, *, has_keys: bool) -> str:
    """The same with OpenAI's client."""
    body = body_of(video)
    prompt, size = body.pop("prompt"), body.pop("size")
    key = 'os.environ["MOTIONDIRECTOR_API_KEY"]' if has_keys else '"unused"'
    imports = "import os\n\n" if has_keys else ""
    return (
        f"{imports}from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{server}/v1", api_key={key})\n'
        f'video = client.videos.create_and_poll(\n    model="foundation",\n    prompt={prompt!r},\n'
        f"    size={size!r},\n    extra_body={body!r},\n)\n"
        'client.videos.download_content(video.id).write_to_file("video.mp4")'
    )


def as_command(video: Video, server: str) -> str:
    """The same with this project's command line, which reads the key from MOTIONDIRECTOR_API_KEY."""
    body = body_of(video)
    words = [["--server", server], ["--prompt", video.prompt], ["--seed", str(video.seed)]]
    for entry in body.get("lora", ()):
        words.append(["--lora", json.dumps(entry) if has_shape(entry) else short(entry)])
    for field in ("size", "frames", "steps", "guidance_scale", "negative_prompt", "scheduler", "outside"):
        if field in body:
            value = f"{body[field]:g}" if field == "guidance_scale" else str(body[field])
            words.append([f"--{field.replace('_', '-')}", value])
    if video.noise_prior is not None:
        words += [
            ["--noise-prior", f"{video.noise_prior.weight:g}"],
            ["--prior-concept", video.noise_prior.ref],
        ]
    lines = ["motiondirector generate", *map(shlex.join, [*words, ["-o", "video.mp4"]])]
    return " \\\n  ".join(lines)


def has_shape(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has more than its short form can say: a region other than a box in fractions."""
    region = entry.get("region")
    return region is not None and (set(region) - {"box", "feather", "unit"} != set() or "box" not in region)


def short(entry: Mapping[str, Any]) -> str:
    """`NAME:KEY=VALUE,...`, as `--lora` reads it."""
    parts = []
    if "path" in entry:
        parts.append(f"path={entry['path']}")
    if "scale" in entry:
        scale = entry["scale"]
        parts.append(
            "scale=" + ",".join(f"{one:g}" for one in (scale if isinstance(scale, list) else [scale]))
        )
    if "steps" in entry:
        parts.append("steps=" + "-".join(f"{one:g}" for one in entry["steps"]))
    if "region" in entry:
        region = entry["region"]
        parts.append("region=" + ",".join(f"{one:g}" for one in region["box"]))
        parts += [f"feather={region['feather']:g}"] if "feather" in region else []
        parts += [f"unit={region['unit']}"] if region.get("unit", "fraction") != "fraction" else []
    return ":".join([entry["name"], ",".join(parts)]) if parts else str(entry["name"])
