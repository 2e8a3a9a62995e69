"""The sides of benchmarks/published_code.py: prepares, starts and steps their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.published_parts.turns import END, GO, REST, Took
from datasets.clip_sets.latents import latents_of, text_of
from datasets.video.writing import encode_mp4
from evaluation.metric import Reference
from infra.allocator import keeping_environment
from infra.errors import UserError
from models.foundations.base import Foundation
from training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/showlab/MotionDirector"
WANTED = ("MotionDirector_train.py", "models/unet_3d_condition.py", "utils/lora.py", "configs")
AS_IT_IS, LIKE_FOR_LIKE, OURS = "published, as it is", "published, like for like", "ours"


def checkout_at(folder: Path | None) -> Path:
    """The folder of the published code.

    Raises:
        UserError: no folder was given, or it does not contain the published code.
    """
    how = f"run `git clone {REPOSITORY}` and pass the new folder"
    if folder is None:
        raise UserError(f"this benchmark needs a checkout of the paper's published code: {how}.")
    missing = [name for name in WANTED if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"{folder} is not a checkout of the paper's published code: it has no {missing[0]}; {how}."
        )
    return folder.resolve()


def published_settings(checkout: Path, clips: int) -> dict[str, Any]:
    """The published settings for one clip or for several."""
    name = "config_single_video.yaml" if clips == 1 else "config_multi_videos.yaml"
    found = yaml.safe_load((checkout / "configs" / name).read_text())
    return {key: _number(value) for key, value in found.items()}


def _number(value: Any) -> Any:
    """Converts 5e-4, a number in YAML 1.2 but a string in YAML 1.1."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


@dataclass(frozen=True)
class Work:
    """What both sides train: clips, settings and their files."""

    foundation: Foundation
    source: str | None
    references: Sequence[Reference]
    config: TrainConfig
    folder: Path
    threads: int

    def write(self) -> None:
        """Write the clips in each side's format, with the same latents."""
        mp4s, clips = self.folder / "clips", []
        mp4s.mkdir(parents=True)
        for number, one in enumerate(self.references):
            encode_mp4(one.video_FHWC, 8, mp4s / f"{number}.mp4")
            visual = latents_of(one.video_FHWC, self.foundation, one.caption)
            text = text_of(one.caption, self.foundation)
            empty = text_of("", self.foundation)
            clips.append({"caption": one.caption, "visual": visual, "text": text, "empty_text": empty})
        torch.save(clips, self.folder / "clips.pt")
        self._write_probe(clips[0])

    def _write_probe(self, clip: dict[str, Any]) -> None:
        x = torch.randn(1, *clip["visual"]["latents"].shape, generator=torch.Generator().manual_seed(0))
        probe = {"x": x, "t": torch.tensor([500]), "text": clip["text"].unsqueeze(0)}
        on = {name: tensor.to(self.foundation.device) for name, tensor in probe.items()}
        with torch.no_grad():
            probe["answer"] = self.foundation.predict(on["x"], on["t"], on["text"]).cpu()
        torch.save(probe, self.folder / "probe.pt")

    def cache_for_published(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the clips in the format of the published code's latent cache, one file per clip."""
        folder.mkdir()
        tokenizer = self.foundation.pipeline.tokenizer
        for number, clip in enumerate(torch.load(self.folder / "clips.pt")):
            pixels_FHWC = torch.from_numpy(self.references[number].video_FHWC)
            ids = tokenizer(
                clip["caption"],
                truncation=True,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            )
            batch = {
                "pixel_values": pixels_FHWC.permute(0, 3, 1, 2) / 127.5 - 1,
                "latents": clip["visual"]["latents"].to(dtype),
                "prompt_ids": ids.input_ids[0],
                "text_prompt": clip["caption"],
                "dataset": "single_video" if len(self.references) == 1 else "folder",
            }
            torch.save(batch, folder / f"cached_{number}.pt")

    def published(self, checkout: Path, *, like_for_like: bool) -> Side:
        """The side of the published code: its settings for this number of clips, overridden by this work's sizes and settings."""
        name = LIKE_FOR_LIKE if like_for_like else AS_IT_IS
        own, at = published_settings(checkout, len(self.references)), self.folder / name.replace(" ", "-")
        at.mkdir()
        half = self.foundation.device.type == "cuda" and not like_for_like
        self.cache_for_published(at / "latents", torch.float16 if half else torch.float32)
        _, height, width, _ = self.references[0].video_FHWC.shape
        mp4s = self.folder / "clips"
        config = own | {
            "pretrained_model_path": str(self.foundation.folder),
            "output_dir": str(at),
            "cached_latent_dir": str(at / "latents"),
            "lora_rank": self.config.rank,
            "lora_unet_dropout": self.config.dropout,
            "learning_rate": self.config.learning_rate,
            "max_train_steps": self.config.steps,
            "checkpointing_steps": self.config.steps + 1,
            "validation_steps": self.config.steps + 1,
            "train_data": own["train_data"]
            | {
                "width": width,
                "height": height,
                "n_sample_frames": len(self.references[0].video_FHWC),
                "use_bucketing": False,
                "single_video_path": str(mp4s / "0.mp4"),
                "single_video_prompt": self.references[0].caption,
                "path": str(mp4s),
                "fallback_prompt": self.references[0].caption,
            },
            "validation_data": own["validation_data"] | {"sample_preview": False, "noise_prior": 0.0},
            "logger_type": None,
        }
        if not half:
            config["mixed_precision"] = "no"
        if like_for_like:
            config |= {"gradient_checkpointing": False, "text_encoder_gradient_checkpointing": False}
        job = {
            "checkout": str(checkout),
            "config": config,
            "probe": str(self.folder / "probe.pt"),
            "norm_groups": self.foundation.denoiser.config.norm_num_groups,
            "like_for_like": like_for_like,
            "seed": self.config.seed,
        }
        extra = keeping_environment() if like_for_like else {}
        return Side(name, "theirs", job, self.folder, self.threads, extra)

    def ours(self) -> Side:
        job = {
            "foundation": self.source,
            "device": str(self.foundation.device),
            "clips": str(self.folder / "clips.pt"),
            "settings": self.config.model_dump(mode="json"),
            "out": str(self.folder / "ours.pt"),
        }
        return Side(OURS, "ours", job, self.folder, self.threads)


@dataclass
class Side:
    """A process that trains one step at a time."""

    name: str
    module: str
    job: dict[str, Any]
    folder: Path
    threads: int
    environment: dict[str, str] = field(default_factory=dict)
    steps: list[Took] = field(default_factory=list)
    messages: dict[str, Any] = field(default_factory=dict)  # what the process sent besides its steps' costs

    def start(self) -> None:
        """Start the process and wait for its first step, which is not counted."""
        slug = self.name.replace(" ", "-")
        path, self.log = self.folder / f"{slug}.json", self.folder / f"{slug}.log"
        path.write_text(json.dumps(self.job))
        self.connection, theirs = Pipe()
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TQDM_DISABLE": "1",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    f"benchmarks.published_parts.{self.module}",
                    str(theirs.fileno()),
                    str(path),
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
            )
        theirs.close()
        self._receive()

    def step(self) -> None:
        self.connection.send(GO)
        self.steps.append(self._receive())

    def start_remaining(self) -> None:
        """Start the remaining steps without waiting for them."""
        self.connection.send(REST)

    def finish(self) -> Path:
        """Wait for the remaining steps. Returns the file of the temporal LoRA."""
        while "file" not in self.messages:
            self._receive(step=False)
        self.process.wait()
        return Path(self.messages["file"])

    def end(self) -> None:
        """End the process without further steps."""
        if self.process.poll() is None:
            self.connection.send(END)
            self.process.wait()

    def _receive(self, *, step: bool = True) -> Took:
        while True:
            try:
                found = self.connection.recv()
            except EOFError:
                output = "\n".join(self.log.read_text().splitlines()[-15:])
                raise UserError(
                    f"the process of side {self.name!r} ended early; the end of its output:\n{output}"
                ) from None
            if isinstance(found, Took):
                return found
            self.messages |= found
            if not step:
                return Took(0, 0, False)
