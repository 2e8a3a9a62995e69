"""The job database's tables and files: earlier versions are brought up to date, odd ones refused, nobody else reads them."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from infra.errors import Conflict, UserError
from serving.claims import Claims
from serving.config import ServeConfig, make_config
from serving.database import SCHEMA
from serving.jobs import JobStore

SECRET = "a-password-of-the-database"


def statements(store: JobStore, *them: str) -> None:
    with store.database.sessions.begin() as session:
        for one in them:
            session.execute(text(one))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_database_of_an_earlier_version_keeps_its_jobs_and_any_engine_may_run_them(
    store: JobStore, url: str, version: int
):
    id = store.add({}, model="foundation").id
    lacks = {2: ["pins", "flows", "servers"], 3: ["flows", "servers"], 4: ["servers"]}[version]
    statements(
        store,
        "ALTER TABLE jobs DROP COLUMN foundation",
        *(f"DROP TABLE {table}" for table in lacks),
        f"UPDATE schema_version SET version = {version}",
    )
    for _ in range(2):
        again = JobStore(url)
        with again.database.sessions() as session:
            assert list(session.scalars(text("SELECT version FROM schema_version"))) == [SCHEMA]
        again.close()
    again = JobStore(url)
    [job] = Claims(again.database).claim("d", 5, foundation="f" * 64)
    assert (job.id, job.foundation) == (id, None)
    assert again.add({"foundation": "e" * 64}, model="foundation").foundation == "e" * 64
    again.close()


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (["ALTER TABLE jobs DROP COLUMN weight"], "jobs.weight"),
        (["ALTER TABLE jobs ADD COLUMN colour VARCHAR(9)"], "jobs.colour"),
        (["DROP TABLE rates", "CREATE TABLE rates (currency VARCHAR(3))"], "rates."),
        (["DROP TABLE pins", "CREATE TABLE pins (foundation INTEGER)"], "pins."),
    ],
)
def test_tables_that_only_have_the_right_names_are_refused_and_left_as_they_are(
    store: JobStore, url: str, odd: list[str], named: str
):
    id = store.add({}, model="foundation").id
    statements(store, *odd)
    with pytest.raises(Conflict, match="tables that this program did not make") as caught:
        JobStore(url)
    assert caught.value.code == "schema_mismatch"
    assert named in caught.value.message
    assert store.state(id) == "queued"


@pytest.mark.parametrize("versions", [[], [3, 4], [99], [1]])
def test_a_version_that_is_none_of_ours_is_refused(store: JobStore, url: str, versions: list[int]):
    statements(
        store,
        "DELETE FROM schema_version",
        *(f"INSERT INTO schema_version VALUES ({version})" for version in versions),
    )
    with pytest.raises(UserError, match="tables of version") as caught:
        JobStore(url)
    assert caught.value.code == "schema_mismatch"


def test_another_programs_tables_stay_beside_ours_but_not_in_their_place(store: JobStore, url: str):
    statements(store, "CREATE TABLE customers (id INTEGER)")
    JobStore(url).close()
    statements(store, "DROP TABLE schema_version", "DROP TABLE jobs", "DROP TABLE customers")
    statements(store, "DROP TABLE rates", "CREATE TABLE rates (currency VARCHAR(3))")
    with pytest.raises(UserError, match=r"rates\."):
        JobStore(url)
    with store.database.sessions() as session, pytest.raises(Exception, match="jobs"):
        session.execute(text("SELECT * FROM jobs"))  # nothing was made beside it


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
