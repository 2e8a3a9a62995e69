"""The job database's files, which nobody else reads, and its password. test_migrations.py has its tables."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from infra.errors import UserError
from serving.config import ServeConfig, make_config
from serving.jobs.jobs import JobStore

SECRET = "a-password-of-the-database"


# --- a SQLite database's files ---------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("jobs.sqlite*")}


def test_a_sqlite_databases_files_are_their_owners_alone_in_any_folder(tmp_path: Path):
    tmp_path.chmod(0o777)
    before = os.umask(0)
    try:
        store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
        store.add({"prompt": "x"}, model="foundation")
        assert modes(tmp_path) == dict.fromkeys(("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"), 0o600)
        for path in tmp_path.glob("jobs.sqlite*"):  # as an earlier version left them
            path.chmod(0o666)
        again = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
        assert set(modes(tmp_path).values()) == {0o600}
        again.close()
        store.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_it_waits_for_another_process_that_writes_while_it_opens_the_file(tmp_path: Path, begin: str):
    other = sqlite3.connect(tmp_path / "jobs.sqlite", check_same_thread=False, isolation_level=None)
    other.execute("CREATE TABLE anything (a)")
    other.execute(begin)  # in a file without a write-ahead log, as a new one is
    threading.Timer(0.2, other.rollback).start()
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    assert not other.in_transaction
    store.close()
    other.close()


def test_a_prompt_that_is_deleted_is_in_no_file_any_more(tmp_path: Path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    prompt = "a-very-private-prompt"
    id = store.add({"prompt": prompt}, model="foundation").id
    store.cancel(id)
    store.delete(id)
    store.close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in tmp_path.glob("jobs.sqlite*"):
        assert prompt.encode() not in path.read_bytes(), path


def test_a_sqlite_uri_whose_file_we_cannot_know_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="give a path"):
        JobStore(f"sqlite:///file:{tmp_path}/jobs.sqlite?uri=true")


# --- a database's password -------------------------------------------------------------------------------------


def test_the_databases_url_may_stand_in_a_file(tmp_path: Path):
    file = tmp_path / "database"
    file.write_text(f"postgresql+psycopg://user:{SECRET}@host/jobs\n")
    config = make_config(database_file=str(file))
    assert config.database_url == f"postgresql+psycopg://user:{SECRET}@host/jobs"
    assert SECRET not in config.model_dump_json()
    with pytest.raises(UserError, match="both given"):
        make_config(database_file=str(file), database="sqlite:///x")


@pytest.mark.parametrize("content", [None, "", f"one {SECRET}", b"\xff\xfe"])
def test_a_database_file_that_holds_no_url_is_refused_and_not_repeated(tmp_path: Path, content):
    file = tmp_path / "database"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="--database-file") as caught:
        _ = ServeConfig(database_file=str(file)).database_url
    assert SECRET not in caught.value.message


def test_a_password_on_the_command_line_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from motiondirector.commands.serve import check_database

    check_database(ServeConfig(database=f"postgresql://user:{SECRET}@host/jobs"))
    told = capsys.readouterr().err
    assert "--database-file" in told
    assert SECRET not in told
    file = tmp_path / "database"
    file.write_text(f"postgresql://user:{SECRET}@host/jobs")
    check_database(ServeConfig(database_file=str(file)))
    check_database(ServeConfig(database="postgresql://user@host/jobs"))
    assert capsys.readouterr().err == ""
