"""The demo's stages from clips to videos: clips, Parquet on S3, training, registry, service, videos.

Every stage runs the command that a user would type as a child process, with an S3 server on loopback
and one Ray. The report consists of the commands' outputs (`--json`, the registry, the API). The first
motion trains while the service starts, the next ones while videos of the first are made. All children
and servers are ended at the end in any case.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from datasets.clip_sets.clips import read_clips
from infra.registry import Version, open_registry
from infra.storage.s3server import LoopbackS3
from motiondirector.demo.clips import draw_clips
from motiondirector.demo.nodes import one_node
from motiondirector.demo.page import about_clip, about_concept, write_page
from motiondirector.demo.server import Server
from motiondirector.demo.stage import Stage, prepare, terminated_as_interrupted
from motiondirector.demo.trainings import Training, Trainings
from motiondirector.demo.uses import CLIP, LOOKS, look_trainings, show_uses
from serving.client import Client
from serving.schemas import CreateVideo

if TYPE_CHECKING:
    from motiondirector.demo.cast import Taught

POLL_S = 0.2


@dataclass
class Demo(Stage):
    """Runs the stages and collects the report.

    Args:
        out: folder for all outputs of the demo.
        concepts: the concepts to train.
        foundation: None: the embedded one.
        steps: training steps; None: those of each concept on the embedded foundation, else the
            recommendation.
        workers: data-parallel workers of a training.
        coupled: whether to also train the usual fine-tuning for comparison: one LoRA for appearance and
            motion.
        uses: whether to also learn two looks, and show what else can be done with the last motion.
    """

    out: Path
    concepts: tuple[Taught, ...]
    foundation: str | None = None
    steps: int | None = None
    workers: int = 1
    coupled: bool = False
    uses: bool = True
    console: Console = field(default_factory=Console)
    stages: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    first_picture: dict[str, Any] | None = None

    def run(self) -> dict[str, Any]:
        """Run all stages. Returns the report and writes it as `report.json` and `index.html`."""
        began = datetime.now(UTC)
        prepare(self.out, "videos", "sheets", "references")
        trained: dict[str, Version] = {}
        videos: list[dict[str, Any]] = []
        with ExitStack() as stack:
            stack.enter_context(terminated_as_interrupted())
            with self.stage("S3 server and Ray"):
                s3 = stack.enter_context(LoopbackS3("demo"))
                stack.enter_context(s3.exported())
                stack.enter_context(one_node(self.cpus, self.environment()))
                stack.enter_context(terminated_as_interrupted())  # Ray has replaced the handler
            data, registry = f"{s3.uri}/clips", f"{s3.uri}/registry"
            with self.stage("clips to Parquet"):
                ingested = self.ingest(data)
            planned = self.trainings(data, registry, f"{s3.uri}/runs")
            trainings = stack.enter_context(Trainings(planned, self.beside, self.room))
            trainings.begin(1)  # before the service: the first video needs both
            server = stack.enter_context(self.server(registry))
            seconds: dict[str, float] = {}
            for concept in self.concepts:
                with self.stage(f"train {concept.name}") as timing:
                    version = self.until_trained(concept.name, trainings, server, registry)
                timing["steps"] = version.metadata.get("steps")
                trained[concept.name] = version
                seconds[concept.name] = trainings.seconds(concept.name, version.created_at)
                with self.stage(f"generate {concept.name}"):
                    videos += self.generate(server, concept, began)
            for concept in self.compared:
                name = coupled_name(concept)
                with self.stage(f"train {name}"):
                    self.until_trained(name, trainings, server, registry)
                with self.stage(f"generate {name}"):
                    self.add_coupled(server, concept, videos)
            looks: dict[str, Version] = {}
            shown: list[dict[str, Any]] = []
            if self.uses:
                with self.stage("learn two looks"):
                    looks = {name: self.until_trained(name, trainings, server, registry) for name in LOOKS}
                with self.stage("mix, animate, region"):
                    shown = show_uses(server.url, self.concepts[-1].name, self.made)
            with self.stage("keep the results"):
                self.keep(data, registry, trained, looks)
        report = {
            "started_at": began.isoformat(timespec="seconds"),
            **self.facts("torch", "ray", "diffusers", "deepspeed"),
            "foundation": {
                "name": self.foundation or "sprites",
                "fingerprint": trained[self.concepts[0].name].metadata["foundation_fingerprint"],
            },
            "concepts": [
                about_concept(concept, trained[concept.name], seconds[concept.name], self.out)
                for concept in self.concepts
            ],
            "first_picture": self.first_picture,
            "videos": videos,
            "uses": shown,
            "ingested": [about_clip(row) for row in ingested],
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_page(report, self.out)
        return report

    # --- what runs beside what ---------------------------------------------------------------------------------

    @property
    def compared(self) -> tuple[Taught, ...]:
        """The concepts for which a coupled baseline is also trained."""
        return tuple(concept for concept in self.concepts if self.coupled and concept.comparable)

    @property
    def room(self) -> int:
        """Number of trainings at once: one core per worker."""
        return max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def cpus(self) -> int:
        """Ray's CPUs, enough for the trainings and an engine. They may exceed the cores: Ray only counts."""
        return max(os.cpu_count() or 1, self.room * self.workers + 1)

    def environment(self) -> dict[str, str]:
        """Environment variables of Ray and the commands.

        Processes of the embedded model have one torch thread: a second brings nothing, and the cores
        are shared. Ray Serve's default of five seconds for its proxy to start is too short while a
        training starts.
        """
        threads = {} if self.foundation else {"OMP_NUM_THREADS": "1"}
        return {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", **threads}

    def trainings(self, data: str, registry: str, runs: str) -> list[Training]:
        """The `train` commands of all concepts, then of the baselines, which publish under separate names.

        Only the first prints its progress; the others write logs.
        """
        made: list[Training] = []
        given = [] if self.steps is None else ["--steps", str(self.steps)]
        methods: list[tuple[Taught, str | None]] = [(concept, None) for concept in self.concepts]
        methods += [(concept, "coupled") for concept in self.compared]
        for concept, method in methods:
            name = coupled_name(concept) if method else concept.name
            options = list(given)
            if self.steps is None and not self.foundation and not method:
                # The prompts name all looks, so generated references are needed less: all steps learn the clips' motion.
                options = ["--steps", str(concept.steps), "--generated-references", "0"]
            options += ["--method", method, "--publish-as", name] if method else []
            options += ["--workers", str(self.workers)] if self.workers > 1 else []
            command = (
                *("train", "--concept", concept.name, "--data", data, "--registry", registry),
                *("--run-dir", f"{runs}/{name}", *options, *self.model()),
            )
            made.append(Training(name, command, self.out / "logs" / f"train-{name}.log" if made else None))
        if self.uses:  # before the baselines
            made[len(self.concepts) : len(self.concepts)] = look_trainings(
                self.out, data, registry, runs, [*given, *self.model()]
            )
        return made

    def until_trained(self, name: str, trainings: Trainings, server: Server, registry: str) -> Version:
        """Wait for a training and return its version. Once the service is up, start others too."""
        while not trainings.ended(name):
            trainings.begin(None if server.ready() else 1)
            time.sleep(POLL_S)
        trainings.begin()
        return open_registry(registry).resolve(name)

    # --- stages ------------------------------------------------------------------------------------------------

    def ingest(self, data: str) -> list[dict[str, Any]]:
        """Ingest rendered clips and the repository's real mp4s into one set. Returns each clip's result.

        Ingest cuts the real clips to the foundation's size.
        """
        manifest = draw_clips(self.command, self.out / "clips", self.concepts, uses=self.uses)
        output = self.command(
            *("ingest", str(manifest), "--windows", "1", "--to", data, *self.model(), "--json"), quiet=True
        )
        return json.loads(output)["inputs"]

    @contextmanager
    def server(self, registry: str) -> Iterator[Server]:
        """Run the Ray Serve application during the block."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = self.out / "logs" / "serve.log"
        with self.beside(
            log,
            *("serve", "--registry", registry, "--port", str(port), "--data-dir", str(self.out / "serve")),
            *self.model(),
        ) as child:
            yield Server(f"http://127.0.0.1:{port}", child, log)

    def generate(self, server: Server, concept: Taught, began: datetime) -> list[dict[str, Any]]:
        """Make a concept's and the base model's videos over HTTP, all at once except the demo's first."""
        server.until_ready()
        wanted = [(kind, n) for n in range(len(concept.prompts)) for kind in ("ours", "base")]
        made: dict[tuple[str, int], dict[str, Any]] = {}
        with Client(server.url) as client, ThreadPoolExecutor(len(wanted)) as pool:
            if self.first_picture is None:
                first = wanted.pop(0)
                made[first] = self.video(client, concept, *first)
                passed = round((datetime.now(UTC) - began).total_seconds(), 1)
                self.first_picture = {"file": made[first]["file"], "seconds": passed}
                self.console.print(
                    f"first video of a learned motion, {passed:.0f} s after the start: {self.out}/{made[first]['file']}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
            futures = {one: pool.submit(self.video, client, concept, *one) for one in wanted}
            made |= {one: future.result() for one, future in futures.items()}
        return [
            made["ours", n] | {"beside": {"base": made["base", n]["file"]}}
            for n in range(len(concept.prompts))
        ]

    def add_coupled(self, server: Server, concept: Taught, videos: list[dict[str, Any]]) -> None:
        """Make the coupled baseline's videos and add them to those of the same prompts."""
        mine = [video for video in videos if video["concept"] == concept.name]
        with Client(server.url) as client, ThreadPoolExecutor(len(mine)) as pool:
            made = pool.map(lambda n: self.video(client, concept, "coupled", n), range(len(mine)))
            for video, other in zip(mine, made, strict=True):
                video["beside"]["coupled"] = other["file"]

    def video(self, client: Client, concept: Taught, kind: str, number: int) -> dict[str, Any]:
        """Make and store one video of a concept. `kind`: base, ours or coupled."""
        used = {"base": "", "ours": f":{concept.name}", "coupled": f":{coupled_name(concept)}"}[kind]
        request = CreateVideo(
            model=f"foundation{used}", prompt=concept.prompts[number], seed=concept.seed + number
        )
        file = f"videos/{concept.name}-{number + 1}{'' if kind == 'ours' else '-' + kind}.mp4"
        return {"concept": concept.name, **self.made(client, request, file)}

    def made(self, client: Client, request: CreateVideo, file: str) -> dict[str, Any]:
        """Make and store one video. Returns facts from the API."""
        began = time.monotonic()
        job = client.create(request)
        done = client.wait(job.id)
        mp4 = client.content(job.id)
        (self.out / file).write_bytes(mp4)
        width, height = (int(side) for side in done.size.split("x"))
        return {
            "prompt": request.prompt,
            "model": done.model,
            "adapters": [
                {"concept": a.concept, "sha256": a.sha256, "scale": a.scale, "path": a.path}
                for a in done.adapters
            ],
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

    def keep(self, data: str, registry: str, trained: dict[str, Version], looks: dict[str, Version]) -> None:
        """Copy results from S3 to the folder: the references, and a registry with the same adapters."""
        remote, local = open_registry(registry), open_registry(self.out / "registry")
        for name, published in {**trained, **looks}.items():
            folder = remote.pull(published, self.out / "concepts" / name)
            local.publish(name, folder, metadata=published.metadata, metrics=published.metrics)
        for name in (*trained, *((CLIP,) if looks else ())):
            for number, clip in enumerate(read_clips(data, name), 1):
                file = self.out / "references" / f"{name}-{number}.mp4"
                file.write_bytes(clip.video)
                file.with_suffix(".txt").write_text(clip.caption + "\n")


def coupled_name(concept: Taught) -> str:
    """The name under which a concept's coupled baseline is published."""
    return f"{concept.name}-coupled"
