"""The same ingest on a Ray cluster: Ray Data maps `process.process` over the sources, then writes the shards.

Workers read the sources themselves (so they must be on S3 or at paths visible to every node). They put
finished clips into a spool beside the set (`.staging/<run>/`) and return only what the driver needs.
The driver decides what is new and plans the shards exactly as without Ray. A second, small Ray Data
pass writes them, and one compare-and-swap commits. Videos never pass through the driver or a
distributed sort.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datasets.clip_sets.clips import STAGING, Shard
from datasets.clip_sets.parquet import Pending, write_shard
from datasets.clip_sets.select import Selection
from datasets.ingest.local import Report, ingest
from datasets.ingest.process import Job, Result, process
from datasets.ingest.sources import Source
from infra.errors import UserError
from infra.storage import FolderStorage, Storage

TASK_ITEMS = 4  # sources per Ray task: one source takes seconds, starting a task milliseconds


def ingest_with_ray(
    sources: Sequence[Source], selection: Selection, target: Storage, **options: Any
) -> Report:
    """`ingest` (same arguments, same result) with the work done by Ray Data. Needs an initialised Ray."""
    spool = target.sub(f"{STAGING}/{uuid.uuid4().hex}")
    try:
        return ingest(
            sources,
            selection,
            target,
            spool=spool,
            run_jobs=run_jobs_on_ray,
            write_shards=write_shards_on_ray,
            **options,
        )
    finally:
        for info in list(spool.list()):
            spool.delete(info.key)
        if isinstance(spool, FolderStorage):
            shutil.rmtree(spool.root, ignore_errors=True)


def run_jobs_on_ray(jobs: list[Job], spool: Storage, known: dict[str, str]) -> Iterator[Result]:
    """`process` of each job, in the order of the jobs."""
    return map_on_ray(lambda job: process(job, spool, known), jobs, TASK_ITEMS)


def write_shards_on_ray(groups: list[list[Pending]], spool: Storage, target: Storage) -> list[Shard]:
    """`write_shard` of each group, in order."""
    return list(map_on_ray(lambda group: write_shard(group, spool, target), groups, 1))


def map_on_ray(work: Callable[[Any], Any], items: Sequence[Any], items_per_task: int) -> Iterator[Any]:
    """`map(work, items)` as a Ray Data pipeline, in order; a UserError of `work` is raised here."""
    import ray.data

    if not items:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True

    def run(row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            return {"result": pickle.dumps(work(pickle.loads(row["item"])))}
        except UserError as error:
            return {"result": pickle.dumps(error)}

    rows = [{"item": pickle.dumps(item)} for item in items]
    tasks = -(-len(rows) // items_per_task)
    for row in ray.data.from_items(rows, override_num_blocks=tasks).map(run).iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, UserError):
            raise result
        yield result
