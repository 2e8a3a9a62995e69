"""The demo's stages, in the order in which a motion is made: clips, Parquet on S3, training, registry, service, videos.

Every stage is the command a user would type, run as a child process against an S3 server on loopback; what the
commands say of themselves (`--json`, the registry, the API) becomes the report. Whatever happens, children and
server are gone when it ends.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from datasets.clips import read_clips
from infra.errors import UserError
from infra.registry import Version, open_registry
from infra.s3server import LoopbackS3
from motiondirector.demo.page import about_clip, about_concept, write_page
from motiondirector.demo.stage import ROOT, Stage, prepare, terminated_as_interrupted
from serving.client import Client
from serving.schemas import CreateVideo

if TYPE_CHECKING:
    from motiondirector.demo.cast import Taught


@dataclass
class Demo(Stage):
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
        prepare(self.out, "videos", "sheets", "references")
        with ExitStack() as stack:
            stack.enter_context(terminated_as_interrupted())
            with self.stage("S3 server"):
                s3 = stack.enter_context(LoopbackS3("demo"))
                stack.enter_context(s3.exported())
            data, registry = f"{s3.uri}/clips", f"{s3.uri}/registry"
            with self.stage("clips to Parquet"):
                ingested = [row for concept in self.concepts for row in self.rendered(concept, data)]
                ingested += self.real(data)
            trained = {}
            for concept in self.concepts:
                with self.stage(f"train {concept.name}") as timing:
                    trained[concept.name] = self.train(concept, data, registry, f"{s3.uri}/runs")
                timing["steps"] = trained[concept.name].metadata.get("steps")
            for concept in self.concepts:
                if concept.coupled:
                    with self.stage(f"train {concept.name}, coupled"):
                        self.train(concept, data, registry, f"{s3.uri}/runs", method="coupled")
            with self.stage("start the server"):
                url = stack.enter_context(self.server(registry))
            with self.stage("generate"):
                videos = self.generate(url)
            with self.stage("keep the results"):
                self.keep(data, registry, trained)
        concepts = [
            about_concept(concept, trained[concept.name], self.stages, self.out) for concept in self.concepts
        ]
        report = {
            "started_at": began.isoformat(timespec="seconds"),
            **self.facts("torch", "ray", "diffusers", "deepspeed"),
            "foundation": {
                "name": self.foundation or "sprites",
                "fingerprint": trained[self.concepts[0].name].metadata["foundation_fingerprint"],
            },
            "concepts": concepts,
            "videos": videos,
            "ingested": [about_clip(row) for row in ingested],
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_page(report, self.out)
        return report

    # --- stages ------------------------------------------------------------------------------------------------

    def rendered(self, concept: Taught, data: str) -> list[dict[str, Any]]:
        """Clips of one motion, each in another appearance, rendered and put into the Parquet set; the outcome of each."""
        folder = self.out / "clips" / concept.name
        count = str(concept.references)
        self.command(
            *("sprites", "render", "--motion", concept.name, "--appearances", count, "--to", str(folder)),
            quiet=True,
        )
        return self.ingest(folder, concept.name, data)

    def real(self, data: str) -> list[dict[str, Any]]:
        """The repository's real clips go into the same set: ordinary mp4s, cut to the foundation's size."""
        return self.ingest(ROOT / "assets/clips", "real", data)

    def ingest(self, folder: Path, concept: str, data: str) -> list[dict[str, Any]]:
        """A folder's clips into the Parquet set; what became of each."""
        told = self.command(
            *("ingest", str(folder / "*.mp4"), "--captions", str(folder / "captions.csv")),
            *("--concept", concept, "--windows", "1", "--to", data, *self.model(), "--json"),
            quiet=True,
        )
        return json.loads(told)["inputs"]

    def train(
        self, concept: Taught, data: str, registry: str, runs: str, method: str | None = None
    ) -> Version:
        """Ray Train with DeepSpeed, to a published version; a baseline's under a name of its own."""
        name = f"{concept.name}-{method}" if method else concept.name
        options = [] if self.steps is None else ["--steps", str(self.steps)]
        options += ["--method", method, "--publish-as", name] if method else []
        self.command(
            *("train", "--concept", concept.name, "--data", data, "--registry", registry),
            *("--run-dir", f"{runs}/{name}", "--workers", str(self.workers), *options, *self.model()),
        )
        return open_registry(registry).resolve(name)

    @contextmanager
    def server(self, registry: str) -> Iterator[str]:
        """The Ray Serve application, until the block ends; its URL."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url, log = f"http://127.0.0.1:{port}", self.out / "logs" / "serve.log"
        with self.beside(
            log,
            *("serve", "--registry", registry, "--port", str(port), "--data-dir", str(self.out / "serve")),
            *self.model(),
        ) as server:
            wait_until_ready(url, server, log)
            yield url

    def generate(self, url: str) -> list[dict[str, Any]]:
        """Every concept with its prompts, the base model and the coupled baseline beside it, all at once over HTTP."""
        wanted = [(c, prompt, number) for c in self.concepts for number, prompt in enumerate(c.prompts)]
        with Client(url) as client, ThreadPoolExecutor(len(wanted) * 3) as pool:
            made = [
                {kind: pool.submit(self.video, client, *one, kind) for kind in contenders(one[0])}
                for one in wanted
            ]
            videos = []
            for futures in made:
                done = {kind: future.result() for kind, future in futures.items()}
                videos.append(
                    done["ours"] | {"beside": {k: v["file"] for k, v in done.items() if k != "ours"}}
                )
        return videos

    def video(self, client: Client, concept: Taught, prompt: str, number: int, kind: str) -> dict[str, Any]:
        """One request, its mp4 in the folder, and what the API says of it. `kind`: base, ours or coupled."""
        began = time.monotonic()
        used = {"base": "", "ours": f":{concept.name}", "coupled": f":{concept.name}-coupled"}[kind]
        job = client.create(CreateVideo(model=f"foundation{used}", prompt=prompt, seed=concept.seed + number))
        done = client.wait(job.id)
        mp4 = client.content(job.id)
        file = f"videos/{concept.name}-{number + 1}{'' if kind == 'ours' else '-' + kind}.mp4"
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

    def keep(self, data: str, registry: str, trained: dict[str, Version]) -> None:
        """What outlives the S3 server: the references, and a registry in the folder with the same adapters."""
        remote, local = open_registry(registry), open_registry(self.out / "registry")
        for name, published in trained.items():
            folder = remote.pull(published, self.out / "concepts" / name)
            local.publish(name, folder, metadata=published.metadata, metrics=published.metrics)
            for number, clip in enumerate(read_clips(data, name), 1):
                file = self.out / "references" / f"{name}-{number}.mp4"
                file.write_bytes(clip.video)
                file.with_suffix(".txt").write_text(clip.caption + "\n")


def contenders(concept: Taught) -> tuple[str, ...]:
    """Whose videos the page shows side by side."""
    return ("base", "ours", "coupled") if concept.coupled else ("base", "ours")


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
