"""A batch as a cluster sees it: many concepts, two worker nodes, and most of what can go wrong, on one machine.

An S3 server on loopback, a local Ray cluster of a head and two worker nodes, a clip set of rendered novel motions in
known appearances with one clip that no decoder reads, and `motiondirector train-batch` over it. While it trains, one more
concept is added, and one node is killed with everything on it. At the end every good concept has to be published, once,
with its scores, and the bad one to be explained.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from datasets.clips import Clip, make_clip
from datasets.parquet import Pending, append
from datasets.sprites.captions import canonical
from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import Scene, appearances
from infra.cluster import QUIET, python_path, variables
from infra.errors import UserError
from infra.registry import open_registry
from infra.s3server import LoopbackS3
from infra.storage import open_storage
from motiondirector.demo.story import end, heed_interrupts, prepare, terminated_as_interrupted
from training.batch.state import BatchState, Record, open_batch
from training.batch.validation import validations

NAME = "crowd"
BAD = "spoilt"
LATE = "latecomer"
FPS = 8
LOOK_S = 1.0


def scenes_and_motions(count: int) -> Iterator[tuple[str, Scene, str]]:
    """(concept, appearance, motion) of `count` concepts: every novel motion in turn, each time in another appearance."""
    names = list(NOVEL)
    for number, scene in enumerate(appearances(count)):
        motion = names[number % len(names)]
        yield f"{motion}-{number // len(names) + 1}", scene, motion


def rendered(concept: str, scene: Scene, motion: str, seed: int) -> Clip:
    """One reference clip, 8 frames of 64x64."""
    frames = render_clip(scene, NOVEL[motion], seed=seed)
    return make_clip(
        concept=concept,
        caption=canonical(scene, NOVEL[motion]),
        frames_FHWC=frames,
        fps=FPS,
        source_uri=f"{concept}.mp4",
        source_sha256=hashlib.sha256(frames.tobytes()).hexdigest(),
    )


def spoilt(clip: Clip) -> Clip:
    """The clip with half of its bytes: stored whole as far as its checksum knows, and unreadable."""
    video = clip.video[: len(clip.video) // 2]
    return replace(clip, concept=BAD, video=video, sha256=hashlib.sha256(video).hexdigest())


@dataclass
class Crowd:
    """Runs the batch and its accidents.

    Args:
        out: folder of logs and report.
        concepts: good ones, the late one included.
        steps: of each concept; None takes the foundation's recommendation.
    """

    out: Path
    concepts: int = 24
    steps: int | None = None
    console: Console = field(default_factory=Console)
    events: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Everything; returns the report, which is also `report.json` in the folder.

        Raises:
            UserError: what should have happened did not.
        """
        prepare(self.out)
        self.began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(terminated_as_interrupted())
            s3 = stack.enter_context(LoopbackS3("crowd"))
            stack.enter_context(s3.exported())
            data, registry = f"{s3.uri}/clips", f"{s3.uri}/registry"
            early = self.clips(data, Path(stack.enter_context(scratch())))
            address, kill_node = stack.enter_context(nodes())
            batch = open_batch(open_storage(registry), NAME)
            driver = stack.enter_context(self.driver("driver", early, data, registry, address))
            self.until(driver, lambda: self.published(batch) >= max(1, self.concepts // 6))
            stack.enter_context(self.driver("late", [LATE], data, registry, address))
            self.until(driver, lambda: LATE in {r.name for r in batch.records()})
            self.say(f"{LATE} added from another terminal")
            self.until(driver, lambda: self.published(batch) >= self.concepts // 3)
            training = [r.name for r in batch.records() if r.status == "training"]
            kill_node()
            self.say(f"a node killed while {len(training)} concepts trained: {', '.join(training)}")
            self.until(driver, lambda: driver.poll() is not None)
            self.until(None, lambda: all(r.ended for r in batch.records()))
            report = self.report(batch, registry, driver.returncode)
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        return report

    def say(self, text: str) -> None:
        """A line with the time since the beginning."""
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        self.events.append(line)
        self.console.print(line, highlight=False, soft_wrap=True)

    def clips(self, data: str, spool: Path) -> list[str]:
        """The clip set; returns the concepts of the first manifest."""
        made = [
            rendered(concept, scene, motion, seed)
            for seed, (concept, scene, motion) in enumerate(scenes_and_motions(self.concepts))
        ]
        made[-1] = replace(made[-1], concept=LATE)
        made.append(spoilt(made[0]))
        storage = open_storage(str(spool))
        append(open_storage(data), [Pending.spooled(clip, storage) for clip in made], storage)
        self.say(f"{len(made)} clips of {len(made)} concepts in {data}, that of {BAD} cut in half")
        return [clip.concept for clip in made if clip.concept != LATE]

    @contextmanager
    def driver(
        self, name: str, concepts: list[str], data: str, registry: str, address: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`train-batch` over these concepts, in a process of its own, until the block ends."""
        manifest = self.out / f"{name}.yaml"
        manifest.write_text(yaml.safe_dump({"defaults": {"data": data}, "concepts": concepts}))
        command = [sys.executable, "-m", "motiondirector", "train-batch", str(manifest), "--name", NAME]
        command += ["--registry", registry, "--address", address]
        command += [] if self.steps is None else ["--setting", f"steps={self.steps}"]
        with (self.out / "logs" / f"{name}.log").open("w") as log:
            environment = {**os.environ, "PYTHONPATH": python_path()}
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=heed_interrupts,
            )
            try:
                yield process
            finally:
                end(process)

    def published(self, batch: BatchState) -> int:
        """How many concepts are."""
        return sum(record.status == "published" for record in batch.records())

    def until(self, driver: subprocess.Popen[bytes] | None, true: Callable[[], bool]) -> None:
        """Wait. Raises UserError when the driver ends first."""
        while not true():
            if driver is not None and driver.poll() is not None:
                if true():
                    return
                raise UserError(
                    f"train-batch ended with {driver.returncode} before its time; see {self.out}/logs.",
                    status=500,
                    code="demo_failed",
                )
            time.sleep(LOOK_S)

    def report(self, batch: BatchState, registry: str, code: int | None) -> dict[str, Any]:
        """What became of every concept, checked. Raises UserError."""
        opened = open_registry(registry)
        rows = []
        records = batch.records()
        scores = validations(batch, records)
        for record in sorted(records, key=lambda r: r.name):
            versions = [str(v) for v in opened.versions(record.name)] if record.status == "published" else []
            found = scores.get(record.name)
            rows.append(
                {**about(record), "scores": found["scores"] if found else {}, "versions": len(versions)}
            )
        wrong = [
            row["concept"]
            for row in rows
            if (row["concept"] == BAD) != (row["status"] == "failed")
            or (row["concept"] != BAD and (row["versions"] != 1 or not row["scores"]))
        ]
        seconds = time.monotonic() - self.began
        report = {"seconds": seconds, "driver": code, "events": self.events, "concepts": rows}
        if wrong:
            raise UserError(
                f"not as it should have ended: {', '.join(wrong)}.", status=500, code="demo_failed"
            )
        return report


def about(record: Record) -> dict[str, Any]:
    """A record as a row of the table."""
    return {
        "concept": record.name,
        "status": record.status,
        "version": record.version,
        "lost": record.lost,
        "reason": record.reason,
    }


@contextmanager
def scratch() -> Iterator[str]:
    """A folder that goes away."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield folder


@contextmanager
def nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A Ray cluster of a head without work and two workers of one core; its address, and what kills one worker node."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    with variables({**QUIET, "PYTHONPATH": python_path()}):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
            cluster.wait_for_nodes()
            yield cluster.address, lambda: cluster.remove_node(workers[-1], allow_graceful=False)
        finally:
            cluster.shutdown()
