"""The batch demo: many concepts on lanes of a Ray cluster, with injected faults, and a check of the result.

It runs the batch with the command that a user would type, on a cluster of local nodes with clips and
registry in S3. A node is killed while its lane trains, a stored clip is damaged, and one concept is
added by a second command. The demo reads only what any user can read: the batch's records and the
registry.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.report import FILES
from infra.errors import SystemFailure
from infra.registry import Registry, open_registry
from infra.storage import Storage
from infra.storage.objects import get_files
from infra.storage.s3server import LoopbackS3
from motiondirector.demo.crowd import Member, crowd, damage, render, write_batch
from motiondirector.demo.nodes import LocalNodes, local_nodes
from motiondirector.demo.page import write_batch_page
from motiondirector.demo.stage import Stage, prepare, terminated_as_interrupted
from motiondirector.demo.verdict import Row, faults_of, rows_of
from motiondirector.demo.watch import Watch, two_lanes_under_way
from training.batch.state.record import Record
from training.batch.state.state import open_batch
from training.batch.watch.validation import validations

NODES = 2  # with one lane each
BATCH = "demo"  # the batch's name
POLL_S = 1.0
REST_S = 30.0  # time for Ray to notice that the lanes are gone
FAILED = 1  # exit code of `train-batch` if a concept failed


@dataclass
class BatchDemo(Stage):
    """Runs the stages and collects the report.

    Args:
        out: folder for all outputs of the demo.
        concepts: number of trainable concepts; a damaged one is added.
        foundation: None: the embedded one.
        steps: training steps of each concept.
        interval: steps between checkpoints.
    """

    out: Path
    concepts: int = 24
    foundation: str | None = None
    steps: int = 200
    interval: int = 10
    console: Console = field(default_factory=Console)
    stages: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Run all stages. Returns the report and writes it to `report.json` and `index.html` in the folder.

        Deviations from the expected result are in its `faults`. Raises UserError if the batch does not end.
        """
        began = datetime.now(UTC)
        prepare(self.out, "evaluations")
        members = crowd(self.concepts)
        with ExitStack() as stack:
            stack.enter_context(terminated_as_interrupted())
            with self.stage(f"S3 server, and Ray with a head and {NODES} nodes"):
                s3 = stack.enter_context(LoopbackS3("demo"))
                stack.enter_context(s3.exported())
                nodes = stack.enter_context(local_nodes(NODES))
            data, registry = f"{s3.uri}/clips", open_registry(f"{s3.uri}/registry")
            with self.stage(f"{len(members)} clips to Parquet, one of them then damaged"):
                clips = self.ingest(members, data)
            with self.stage("train") as timing:
                watch, ended = self.train(members, data, registry, nodes)
            timing["steps"] = self.steps
            with self.stage("check the results"):
                records = watch()
                validated = validations(watch.batch, records)
                self.rows = rows_of(members, records, validated, registry)
                faults = faults_of(self.rows, clips) + self.leftovers(records, nodes, ended)
                self.keep(registry)
        report = {
            "started_at": began.isoformat(timespec="seconds"),
            **self.facts("torch", "ray", "diffusers"),
            "foundation": self.foundation or "sprites",
            "concepts": [asdict(row) for row in self.rows],
            "captions": {one.name: one.caption for one in members},
            "events": watch.events,
            "faults": faults,
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_batch_page(report, self.out)
        return report

    # --- stages ------------------------------------------------------------------------------------------------

    def ingest(self, members: Sequence[Member], data: str) -> Sequence[str]:
        """Ingest the clips to the Parquet set, then damage one concept's. Returns the damaged clips' ids."""
        manifest = render(members, self.out / "clips")
        self.command(
            *("ingest", str(manifest), "--windows", "1", "--to", data, *self.model(), "--json"), quiet=True
        )
        (damaged,) = (one.name for one in members if one.part == "damaged")
        self.console.print(f"the second half of {damaged}'s clip is now zeros", highlight=False)
        return damage(data, damaged)

    def train(
        self, members: Sequence[Member], data: str, registry: Registry, nodes: LocalNodes
    ) -> tuple[Watch, list[int]]:
        """Run the batch; kill a node and add a late concept meanwhile. Returns also both exit codes."""
        in_time = [one for one in members if one.part != "late"]
        manifest = write_batch(in_time, data, self.out / "concepts.jsonl")
        command = (
            *("train-batch", str(manifest), "--name", BATCH, "--registry", registry.uri),
            *("--address", nodes.address, "--cpus-per-lane", "1"),
            *("--setting", f"steps={self.steps}", "--setting", f"checkpoint_interval={self.interval}"),
            *self.model(),
        )
        watch = Watch(open_batch(registry.storage, BATCH), self.tell)
        with ExitStack() as stack:
            log = self.out / "logs" / "train-batch.log"
            first = stack.enter_context(self.beside(log, *command))
            ended = "`train-batch` ended before two lanes had written checkpoints (if it succeeded, use more --steps)"
            poll_until(watch, two_lanes_under_way, first, log, ended)
            watch.say(f"node {nodes.lose()[:8]} is killed; {len(nodes)} is left")
            (late,) = (one.name for one in members if one.part == "late")
            watch.say(f"{late} is added to the manifest, and the command is run again")
            write_batch(members, data, manifest)
            # The first command validates everything that is published.
            log = self.out / "logs" / "train-batch-again.log"
            second = stack.enter_context(self.beside(log, *command, "--no-evaluate"))
            while None in (first.poll(), second.poll()):
                watch()
                time.sleep(POLL_S)
        return watch, [first.returncode, second.returncode]

    def leftovers(self, records: Sequence[Record], nodes: LocalNodes, ended: Sequence[int]) -> list[str]:
        """Faults for everything that the commands left undone or running."""
        faults = [
            f"`train-batch` ended with code {code} (see {self.out}/logs); expected {FAILED}: a concept failed."
            for code in ended
            if code != FAILED
        ]
        faults += [f"{r.name} is still held by lane {r.lease.owner}." for r in records if r.lease is not None]
        until = time.monotonic() + REST_S
        while (alive := nodes.actors()) and time.monotonic() < until:
            time.sleep(POLL_S)
        return faults + ([f"these still run on the cluster: {', '.join(alive)}."] if alive else [])

    def keep(self, registry: Registry) -> None:
        """Copy from S3 to the folder: the registry with records and logs, and each version's evaluation."""
        kept = open_registry(self.out / "registry")
        copy(registry.storage, kept.storage)
        for row in self.rows:
            if row.version is not None and "evaluation" in (metrics := kept.resolve(row.version).metrics):
                get_files(kept.storage, metrics["evaluation"][FILES], self.out / "evaluations" / row.concept)

    def tell(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def poll_until(
    watch: Watch,
    true: Callable[[list[Record]], bool],
    child: subprocess.Popen[Any],
    log: Path,
    otherwise: str,
) -> None:
    """Poll until a condition holds. Raises SystemFailure, with the log's end, if the child ends before."""
    while not true(watch()):
        if child.poll() is not None:
            raise SystemFailure(f"{otherwise}. The end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(POLL_S)


def copy(source: Storage, target: Storage) -> None:
    """Copy every object under its key."""
    for info in source.list():
        target.put(info.key, source.get(info.key))
