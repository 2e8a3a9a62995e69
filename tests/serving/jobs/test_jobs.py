"""The job store, on SQLite and on PostgreSQL: legal transitions only, one end, several processes at once."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import NotFound, Unavailable, UserError
from serving.jobs.jobs import IllegalTransition, JobStore

COMPLETE = {"key": "results/x.mp4", "sha256": "0" * 64, "size": 3, "timings": {}, "expires_at": 0.0}
MOVES = {
    "start": lambda store, id: store.start(id),
    "requeue": lambda store, id: store.requeue(id),
    "complete": lambda store, id: store.complete(id, **COMPLETE),
    "fail": lambda store, id: store.fail(id, code="c", message="m"),
    "cancel": lambda store, id: store.cancel(id),
}
REACH = {
    "queued": [],
    "in_progress": ["start"],
    "completed": ["start", "complete"],
    "failed": ["start", "fail"],
    "cancelled": ["cancel"],
}
ALLOWED = {
    "queued": {"start", "requeue", "fail", "cancel"},
    "in_progress": {"requeue", "complete", "fail", "cancel"},
    "completed": set(),
    "failed": set(),
    "cancelled": set(),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", REACH)
def test_only_legal_transitions_happen(store: JobStore, state: str, move: str):
    id = store.add({}, model="foundation").id
    for step in REACH[state]:
        MOVES[step](store, id)
    if move in ALLOWED[state]:
        MOVES[move](store, id)
        return
    with pytest.raises(IllegalTransition):
        MOVES[move](store, id)
    assert store.state(id) == state


def end_at_once(url: str, id: str, move: str, gate, won) -> None:
    store = JobStore(url)
    gate.wait()
    try:
        MOVES[move](store, id)
    except IllegalTransition:
        return
    won.put(move)


def test_of_many_processes_that_end_a_job_at_once_one_wins(store: JobStore, url: str):
    id = store.add({}, model="foundation").id
    store.start(id)
    context = multiprocessing.get_context("fork")
    gate, won = context.Barrier(6), context.Queue()
    moves = ["complete", "fail", "cancel"] * 2
    workers = [context.Process(target=end_at_once, args=(url, id, move, gate, won)) for move in moves]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    winner = won.get(timeout=10)
    assert won.empty()
    assert store.state(id) == {"complete": "completed", "fail": "failed", "cancel": "cancelled"}[winner]


def test_many_threads_may_add_and_each_job_has_its_own_number(store: JobStore):
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: store.add({"n": n}, model="foundation"), range(80)))
    assert len({job.id for job in jobs}) == 80
    assert len({job.number for job in jobs}) == 80
    assert store.count() == {"queued": 80}


def test_another_tenants_job_is_not_found(store: JobStore):
    id = store.add({}, model="foundation", tenant="a").id
    assert store.get(id, tenant="a").id == id
    with pytest.raises(NotFound):
        store.get(id, tenant="b")


def test_progress_after_the_end_changes_nothing(store: JobStore):
    id = store.add({}, model="foundation").id
    store.start(id)
    store.complete(id, **COMPLETE)
    store.note(id, progress=3, timings={"queue": 9.0})
    job = store.get(id)
    assert (job.progress, job.timings) == (100, {})


def test_a_running_job_cannot_be_deleted(store: JobStore):
    id = store.add({}, model="foundation").id
    store.start(id)
    with pytest.raises(IllegalTransition):
        store.delete(id)
    store.cancel(id)
    store.delete(id)
    assert store.state(id) is None
    store.delete(id)  # as one does who asked at the same time


@pytest.mark.parametrize("id", ["\0", "video_\0", "video_" + "0" * 31 + "\0", "video_" + "0" * 32, ""])
def test_what_is_no_id_is_not_found(store: JobStore, id: str):
    for look in (lambda: store.get(id), lambda: store.page(after=id)):
        with pytest.raises(NotFound):
            look()


def test_results_expire(store: JobStore):
    id = store.add({}, model="foundation").id
    store.start(id)
    store.complete(id, **{**COMPLETE, "expires_at": time.time() + 100})
    assert store.expired(time.time()) == []
    assert [job.id for job in store.expired(time.time() + 101)] == [id]
    store.forget_result(id)
    assert store.expired(time.time() + 101) == []


def test_sqlite_is_in_wal_mode(tmp_path: Path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    store.add({}, model="foundation")
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_that_cannot_be_opened_is_said_in_one_sentence(tmp_path: Path):
    with pytest.raises(Unavailable, match="cannot be opened"):
        JobStore(f"sqlite:///{tmp_path}/none/jobs.sqlite")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "not a SQLAlchemy URL"),
        ("mysql://user:secret@host/jobs", "sqlite or postgresql"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/jobs", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(url: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        JobStore(url)
    assert "secret" not in caught.value.message
