"""The demo's stages, in the order in which a motion is made: clips, Parquet on S3, training, registry, service, videos.

Every stage is the command a user would type, run as a child process against an S3 server on loopback; what the
commands say of themselves (`--json`, the registry, the API) becomes the report. Whatever happens, children and
server are gone when it ends.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.clips import read_clips
from datasets.decode import decode
from datasets.video import contact_sheet
from infra.errors import UserError
from infra.registry import Version, open_registry
from infra.s3server import LoopbackS3
from motiondirector.demo.page import strip_png, write_page
from serving.client import Client
from serving.schemas import CreateVideo

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Taught:
    """One concept of the demo: where its clips come from and what it is asked for."""

    name: str
    about: str
    clips: str  # a motion of the sprite world to render, or a file of assets/clips
    rendered: bool
    prompts: tuple[str, str, str]
    seed: int


@dataclass
class Demo:
    """Runs the stages and collects the report.

    Args:
        out: folder of everything the demo leaves behind.
        concepts: what is taught.
        foundation: None for the embedded one.
        steps: training steps; None takes the foundation's recommendation.
        workers: data-parallel workers of a training.
    """

    out: Path
    concepts: tuple[Taught, ...]
    foundation: str | None = None
    steps: int | None = None
    workers: int = 2
    console: Console = field(default_factory=Console)
    stages: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """All stages; returns the report, which is also `report.json` and `index.html` in the folder."""
        began = datetime.now(UTC)
        prepare(self.out)
        with ExitStack() as stack:
            with self.stage("S3 server"):
                s3 = stack.enter_context(LoopbackS3("demo"))
                stack.enter_context(s3.exported())
            data, registry = f"{s3.uri}/clips", f"{s3.uri}/registry"
            with self.stage("clips to Parquet"):
                ingested = [row for concept in self.concepts for row in self.ingest(concept, data)]
            trained = {}
            for concept in self.concepts:
                with self.stage(f"train {concept.name}") as timing:
                    trained[concept.name] = self.train(concept, data, registry, f"{s3.uri}/runs")
                timing["steps"] = trained[concept.name].metadata.get("steps")
            with self.stage("start the server"):
                url = stack.enter_context(self.server(registry))
            with self.stage("generate"):
                videos = self.generate(url)
            with self.stage("keep the results"):
                self.keep(registry, trained)
                report = self.report(began, data, ingested, trained, videos)
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_page(report, self.out)
        return report

    # --- stages ------------------------------------------------------------------------------------------------

    def ingest(self, concept: Taught, data: str) -> list[dict[str, Any]]:
        """Clips of one concept into the Parquet set; the outcome of each."""
        if concept.rendered:
            folder = self.out / "clips" / concept.name
            self.command(
                "sprites", "render", "--motion", concept.clips, "--appearances", "4", "--to", str(folder)
            )
            source = [str(folder), "--captions", str(folder / "captions.csv")]
        else:
            source = [
                str(ROOT / "assets/clips" / concept.clips),
                "--captions",
                str(ROOT / "assets/clips/captions.csv"),
            ]
        told = self.command(
            "ingest", *source, "--concept", concept.name, "--to", data, *self.model(), "--json", quiet=True
        )
        return json.loads(told)["inputs"]

    def train(self, concept: Taught, data: str, registry: str, runs: str) -> Version:
        """Ray Train with DeepSpeed, to a published version."""
        steps = [] if self.steps is None else ["--steps", str(self.steps)]
        self.command(
            *("train", "--concept", concept.name, "--data", data, "--registry", registry),
            *("--run-dir", f"{runs}/{concept.name}", "--workers", str(self.workers), *steps, *self.model()),
        )
        return open_registry(registry).resolve(concept.name)

    @contextmanager
    def server(self, registry: str) -> Iterator[str]:
        """The Ray Serve application, until the block ends; its URL."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = self.say(
            "serve",
            "--registry",
            registry,
            "--port",
            str(port),
            "--data-dir",
            str(self.out / "serve"),
            *self.model(),
        )
        url = f"http://127.0.0.1:{port}"
        with (self.out / "logs" / "serve.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                wait_until_ready(url, server, Path(log.name))
                yield url
            finally:
                end(server)

    def generate(self, url: str) -> list[dict[str, Any]]:
        """Every concept with its three prompts, and the base model beside each, all at once over HTTP."""
        wanted = [(c, prompt, number) for c in self.concepts for number, prompt in enumerate(c.prompts)]
        with Client(url) as client, ThreadPoolExecutor(len(wanted) * 2) as pool:
            made = [pool.submit(self.video, client, c, prompt, number, True) for c, prompt, number in wanted]
            bases = [
                pool.submit(self.video, client, c, prompt, number, False) for c, prompt, number in wanted
            ]
            videos = [future.result() for future in made]
            for video, base in zip(videos, bases, strict=True):
                video["base_file"] = base.result()["file"]
        return videos

    def video(
        self, client: Client, concept: Taught, prompt: str, number: int, adapted: bool
    ) -> dict[str, Any]:
        """One request, its mp4 in the folder, and what the API says of it."""
        began = time.monotonic()
        job = client.create(
            CreateVideo(
                model=f"foundation:{concept.name}" if adapted else "foundation",
                prompt=prompt,
                seed=concept.seed + number,
            )
        )
        done = client.wait(job.id)
        mp4 = client.content(job.id)
        file = f"videos/{concept.name}-{number + 1}{'' if adapted else '-base'}.mp4"
        (self.out / file).write_bytes(mp4)
        width, height = (int(side) for side in done.size.split("x"))
        return {
            "concept": concept.name,
            "prompt": prompt,
            "model": done.model,
            "adapters": [{"sha256": a.sha256, "scale": a.scale, "path": a.path} for a in done.adapters],
            "adapter_sha256": done.adapters[0].sha256 if done.adapters else None,
            "version": done.adapters[0].version if done.adapters else None,
            "seed": done.seed,
            "frames": done.frames,
            "width": width,
            "height": height,
            "bytes": len(mp4),
            "file": file,
            "seconds": round(time.monotonic() - began, 2),
            "timings": done.timings.model_dump(),
        }

    def keep(self, registry: str, trained: dict[str, Version]) -> None:
        """The concepts outlive the S3 server: a registry in the folder holds the same adapters."""
        remote, local = open_registry(registry), open_registry(self.out / "registry")
        for name, version in trained.items():
            folder = remote.pull(version, self.out / "concepts" / name)
            local.publish(name, folder, metadata=version.metadata, metrics=version.metrics)

    # --- the report --------------------------------------------------------------------------------------------

    def report(
        self,
        began: datetime,
        data: str,
        ingested: list[dict[str, Any]],
        trained: dict[str, Version],
        videos: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Everything the page shows, as plain JSON values."""
        concepts = []
        for concept in self.concepts:
            version = trained[concept.name]
            rows = [
                (f"{v['prompt']} (seed {v['seed']}): {what}", decode(self.out / v[key]).frames_FHWC)
                for v in videos
                if v["concept"] == concept.name
                for what, key in (("base model", "base_file"), (version.ref, "file"))
            ]
            sheet = f"sheets/{concept.name}.png"
            contact_sheet(rows).save(self.out / sheet)
            stage = next(s for s in self.stages if s["name"] == f"train {concept.name}")
            clips = [
                {
                    "caption": clip.caption,
                    "frames": clip.num_frames,
                    "width": clip.width,
                    "height": clip.height,
                    "source": Path(clip.source_uri).name,
                    "strip": strip_png(clip.frames_FHWC()),
                }
                for clip in read_clips(data, concept.name)
            ]
            concepts.append(
                {
                    "name": concept.name,
                    "about": concept.about,
                    "ref": version.ref,
                    "adapter_sha256": version.adapter_sha256,
                    "steps": version.metadata.get("steps"),
                    "loss": version.metrics.get("loss"),
                    "train_seconds": stage["seconds"],
                    "clips": clips,
                    "sheet": sheet,
                }
            )
        fingerprint = trained[self.concepts[0].name].metadata.get("foundation_fingerprint", "")
        return {
            "started_at": began.isoformat(timespec="seconds"),
            "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
            "versions": ", ".join(
                f"{name} {package_version(name)}" for name in ("torch", "ray", "diffusers", "deepspeed")
            ),
            "foundation": {"name": self.foundation or "sprites", "fingerprint": fingerprint},
            "stages": self.stages,
            "concepts": concepts,
            "videos": videos,
            "ingested": [
                {
                    "source": Path(row["source"]).name,
                    "concept": row["concept"],
                    "accepted": row["status"] == "accepted",
                    "outcome": "; ".join(
                        filter(None, [row["status"], row["size"], row["reason"], *row["warnings"]])
                    ),
                }
                for row in ingested
            ],
            "commands": self.commands,
        }

    # --- running commands --------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage and say that it is on."""
        self.console.rule(f"[bold]{name}", align="left", style="dim")
        timing: dict[str, Any] = {"name": name}
        began = time.monotonic()
        yield timing
        timing["seconds"] = round(time.monotonic() - began, 2)
        self.stages.append(timing)

    def model(self) -> list[str]:
        return ["--foundation", self.foundation] if self.foundation else []

    def say(self, *arguments: str) -> list[str]:
        """Show the command as a user would type it, and return it as this Python runs it."""
        shown = shlex.join(["motiondirector", *arguments]).replace(f"{ROOT}/", "")
        self.commands.append(shown)
        self.console.print(f"$ {shown}", style="cyan", highlight=False, soft_wrap=True)
        return [sys.executable, "-m", "motiondirector", *arguments]

    def command(self, *arguments: str, quiet: bool = False) -> str:
        """Run a command to its end; its standard output when `quiet`. UserError when it fails."""
        command = self.say(*arguments)
        child = subprocess.Popen(command, stdout=subprocess.PIPE if quiet else None, text=True)
        try:
            told, _ = child.communicate()
        except BaseException:
            end(child)
            raise
        if child.returncode:
            raise UserError(
                f"`motiondirector {arguments[0]}` ended with {child.returncode}; its reason stands above."
            )
        return told or ""


def prepare(out: Path) -> None:
    """An empty folder for this run. Only what a former demo made is removed."""
    if out.exists() and any(out.iterdir()) and not (out / ".demo").exists():
        raise UserError(f"{out} holds something that no demo made; give another --out.")
    shutil.rmtree(out, ignore_errors=True)
    for name in ("videos", "sheets", "logs", "clips"):
        (out / name).mkdir(parents=True)
    (out / ".demo").touch()


def wait_until_ready(url: str, server: subprocess.Popen[Any], log: Path, patience: float = 300.0) -> None:
    """Until /readyz answers. UserError with the end of the log when the server dies or takes too long."""
    import httpx

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise UserError(
        f"the server did not become ready; the end of its log:\n{log.read_text()[-2000:]}", status=503
    )


def end(child: subprocess.Popen[Any], patience: float = 45.0) -> None:
    """Ask a child to stop as Ctrl-C would; after `patience` seconds, insist."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
