"""The child of `datasets.ingest.confined`: bounds itself, then unpacks, decodes and cuts what it was given."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from datasets.clip_sets.select import Selection
from datasets.ingest.archive import unpack
from datasets.ingest.confined import (
    CLIPS,
    DOING,
    FILES,
    JOB,
    OUT_OF_MEMORY,
    REPORT,
    Found,
    Job,
    StrangeFile,
    bound,
    end_with_parent,
    is_out_of_memory,
)
from datasets.ingest.local import ingest
from datasets.ingest.process import ACCEPTED, REFUSED, Outcome, Result, process
from datasets.ingest.process import Job as SourceJob
from datasets.ingest.sources import Captions, Source
from infra.errors import UserError
from infra.storage import Storage, open_storage
from infra.storage.stored import parse

ZIP = b"PK\x03\x04"


def main(folder: Path) -> None:
    """Do the job of a folder, and write its report."""
    job = parse(Job, (folder / JOB).read_bytes())
    end_with_parent()
    bound(job.bounds)
    try:
        found = Confining(folder, job).run()
    except UserError as error:
        found = Found(refused=(error.message,), code=error.code)
    except Exception as error:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(OUT_OF_MEMORY if is_out_of_memory(error) else 1)
    (folder / REPORT).write_text(json.dumps(asdict(found)))


class Confining:
    """One job. Paths are relative to `folder/files`, so that clips and errors do not name a folder of the server."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        self.doing = (folder / DOING).open("wb", buffering=0)
        self.names: dict[str, str] = {}  # uri -> how errors call it
        self.captions: list[Captions] = []
        os.chdir(folder / FILES)

    def run(self) -> Found:
        """Ingest all files into the clip set; nothing is kept if one is refused."""
        sources = [source for file in self.job.files for source in self.sources(file)]
        report = ingest(
            sources,
            Selection(**self.job.selection),
            open_storage(self.folder / CLIPS),
            concept=self.job.concept,
            caption=self.job.caption,
            run_jobs=self.one_after_another,
        )
        refused = tuple(self.said(one) for one in report.outcomes if one.status == REFUSED)
        remarks = [f"{self.names[one.source]}: {text}" for one in report.outcomes for text in one.warnings]
        unused = [text for captions in self.captions for text in self.unused(captions, sources)]
        clips = report.count(ACCEPTED)
        if not refused and not clips:
            refused = ("the files have no clip that differs from the others",)
        return Found(clips, tuple(dict.fromkeys([*remarks, *unused])), refused)

    def sources(self, file: StrangeFile) -> list[Source]:
        """The videos of a file, with their captions."""
        self.at(file.name)
        path = Path(file.path)
        with path.open("rb") as opened:
            packed = opened.read(len(ZIP)) == ZIP or path.suffix.lower() == ".zip"
        if not packed:
            self.names[file.path] = file.name
            return [Source(file.path, file.caption, start=file.start)]
        inside = path.with_name("unpacked")
        bounds = self.job.bounds
        unpacked = unpack(path, file.name, inside, files=bounds.files, size=bounds.unpacked)
        path.unlink()
        table = None if unpacked.captions is None else Captions(str(unpacked.captions))
        self.captions += [] if table is None else [table]
        found = []
        for video in unpacked.videos:
            self.names[str(video)] = f"{file.name}: {video.relative_to(inside)}"
            caption = (None if table is None else table.get(str(video))) or file.caption
            found.append(Source(str(video), caption, start=file.start))
        return found

    def one_after_another(
        self, jobs: list[SourceJob], spool: Storage, known: dict[str, str]
    ) -> Iterator[Result]:
        """Process the jobs in this process; says which one it is at, in case it is the last thing it does."""
        for job in jobs:
            self.at(self.names[job.source.uri])
            yield process(job, spool, known)

    def at(self, name: str) -> None:
        self.doing.seek(0)
        self.doing.truncate()
        self.doing.write(name.encode(errors="replace")[:300])

    def said(self, outcome: Outcome) -> str:
        """A refusal with the name of its file, once."""
        name, reason = self.names[outcome.source], outcome.reason.rstrip(".")
        last = PurePosixPath(outcome.source).name
        if reason.startswith("empty caption"):
            reason = "no caption: give `caption` in the request, in the file's row, or in captions.csv inside the zip"
        return f"{name}{reason[len(last) :]}" if reason.startswith(last) else f"{name}: {reason}"

    def unused(self, captions: Captions, sources: list[Source]) -> list[str]:
        return [
            f"{PurePosixPath(captions.uri).name} has a caption for {name}, which is not there"
            for name in captions.unused(sources)
        ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
