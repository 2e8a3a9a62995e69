"""The job database's tables: earlier versions are brought up to date with their jobs, and odd ones are refused and left as they are.

`databases/` has a dump of every version, made by the code of that version.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from infra.errors import Conflict, Unavailable, UserError
from serving.jobs import database
from serving.jobs.claims import Claims
from serving.jobs.database import Base, Job
from serving.jobs.jobs import FINAL, LEARNING, STATES, JobStore
from serving.jobs.migrations import VERSION_TABLE
from serving.jobs.pins import PinStore
from serving.requests import request_of

DUMPS = Path(__file__).parents[1] / "databases"
VERSIONS = sorted({path.name.split("-")[0] for path in DUMPS.glob("*.sql")})
SCRIPTS = ScriptDirectory(str(Path(sys.modules["serving.jobs.migrations"].__file__ or "").parent))
HEAD = SCRIPTS.get_current_head()
ROOT = Path(__file__).resolve().parents[3]
STORED = tuple(state for state in STATES if state != LEARNING)  # the states of the jobs in the dumps


def restore(url: str, version: str) -> None:
    sql = create_engine(url)
    with sql.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        dump = (DUMPS / f"{version}-{sql.dialect.name}.sql").read_text()
        (raw.executescript if sql.dialect.name == "sqlite" else raw.execute)(dump)
        raw.commit()
    sql.dispose()


def statements(url: str, *them: str) -> None:
    sql = create_engine(url)
    with sql.begin() as connection:
        for one in them:
            connection.execute(text(one))
    sql.dispose()


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, and so every column."""
    return {
        table: sorted(
            (dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()), key=repr
        )
        for table in inspect(connection).get_table_names()
    }


@pytest.fixture
def sql(url: str) -> Any:
    sql = create_engine(url)
    yield sql
    sql.dispose()


def all_of(sql: Engine) -> dict[str, list[dict[str, Any]]]:
    with sql.connect() as connection:
        return contents(connection)


# --- earlier versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_an_earlier_version_is_brought_up_to_date_and_keeps_every_row(
    url: str, sql: Engine, version: str
):
    restore(url, version)
    before = all_of(sql)
    for _ in range(2):  # the second time it is up to date
        JobStore(url).close()
        after = all_of(sql)
        assert after.pop(VERSION_TABLE) == [{"version_num": HEAD}]
        assert after.keys() == Base.metadata.tables.keys()
        for table in before.keys() - {"schema_version", VERSION_TABLE}:
            known = before[table][0].keys() if before[table] else ()
            kept = [{name: row[name] for name in known} for row in after[table]]
            assert sorted(kept, key=repr) == before[table], table


@pytest.mark.parametrize("version", VERSIONS)
def test_the_jobs_of_an_earlier_version_go_on(url: str, version: str):
    restore(url, version)
    statements(url, "UPDATE jobs SET lease_until = 0 WHERE owner IS NOT NULL")  # its dispatcher is gone
    store = JobStore(url)
    claims = Claims(store.database)
    jobs, _ = store.page(limit=100, order="asc")
    assert store.count() == dict.fromkeys(STORED, 2)
    assert [request_of(job).prompt for job in jobs] == [f"a bear, {job.state}" for job in jobs]
    assert claims.reclaim() == 2
    waiting = {job.id for job in jobs if job.state not in FINAL}
    with_foundation = {job.id for job in jobs if job.id in waiting and job.foundation is not None}
    assert bool(with_foundation) == (version >= "0005")
    assert {job.id for job in claims.claim("d", 9, foundation="e" * 64)} == waiting - with_foundation
    assert {job.id for job in claims.claim("d", 9, foundation="f" * 64)} == with_foundation
    pinned = [use.concept for use in PinStore(store.database).wanted("f" * 64)[1]]
    assert pinned == (["orbit"] if version >= "0003" else [])
    assert store.add({}, model="foundation").number > max(job.number for job in jobs)
    store.close()


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_the_migrated_tables_are_those_of_the_metadata(url: str, sql: Engine, version: str | None):
    """Without any filter: no table is left over either."""
    if version is not None:
        restore(url, version)
    JobStore(url).close()
    with sql.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []


def test_every_version_but_the_present_one_has_dumps():
    revisions = sorted(script.revision for script in SCRIPTS.walk_revisions())
    assert VERSIONS in (revisions, revisions[:-1])
    assert {path.name for path in DUMPS.glob("*.sql")} == {
        f"{version}-{dialect}.sql" for version in VERSIONS for dialect in ("sqlite", "postgresql")
    }


def open_it(url: str, gate: Any, said: Any) -> None:
    gate.wait()
    try:
        store = JobStore(url)
        said.put(store.count())
        store.close()
    except BaseException as error:
        said.put(repr(error))
        raise


@pytest.mark.parametrize("version", [None, VERSIONS[0]])
def test_processes_that_open_a_database_at_once_bring_it_up_to_date_once(
    url: str, sql: Engine, version: str | None
):
    if version is not None:
        restore(url, version)
    context = multiprocessing.get_context("fork")
    gate, said = context.Barrier(4), context.SimpleQueue()
    workers = [context.Process(target=open_it, args=(url, gate, said)) for _ in range(4)]
    for worker in workers:
        worker.start()
    told = [said.get() for _ in workers]
    for worker in workers:
        worker.join(60)
    assert told == [dict.fromkeys(STORED, 2) if version else {}] * 4
    assert all_of(sql)[VERSION_TABLE] == [{"version_num": HEAD}]


def test_who_opens_a_database_waits_for_an_upgrade_that_takes_longer_than_any_other_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "BUSY_MS", 100)
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    restore(url, "0005")
    opened: list[JobStore] = []
    thread = threading.Thread(target=lambda: opened.append(JobStore(url)))
    with sqlite3.connect(tmp_path / "jobs.sqlite") as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        thread.start()
        thread.join(1.5)
        assert thread.is_alive()
    thread.join(60)
    assert opened[0].count() == dict.fromkeys(STORED, 2)
    opened[0].close()


def test_nothing_is_printed(url: str, capfd: pytest.CaptureFixture[str]):
    restore(url, VERSIONS[0])
    JobStore(url).close()
    assert capfd.readouterr().out == ""


# --- what is refused -------------------------------------------------------------------------------------------


def refused(url: str, sql: Engine, match: str) -> Conflict:
    """Opening it is refused with one sentence, and changes nothing."""
    before = all_of(sql)
    with pytest.raises(UserError, match=match) as caught:
        JobStore(url)
    assert caught.value.code == "schema_mismatch"
    assert "\n" not in caught.value.message
    assert all_of(sql) == before
    assert isinstance(caught.value, Conflict)
    return caught.value


@pytest.mark.parametrize(
    "odd",
    [
        f"UPDATE {VERSION_TABLE} SET version_num = '0099'",
        f"UPDATE {VERSION_TABLE} SET version_num = 'a-branch'",
        f"INSERT INTO {VERSION_TABLE} VALUES ('0005')",
        f"DELETE FROM {VERSION_TABLE}",
    ],
)
def test_a_later_version_and_one_that_is_none_are_refused(store: JobStore, url: str, sql: Engine, odd: str):
    store.add({}, model="foundation")
    statements(url, odd)
    error = refused(
        url, sql, "has tables of version (0099|a-branch|unknown), but this program needs " + str(HEAD)
    )
    assert "run the version of the program that made it" in error.message


@pytest.mark.parametrize("versions", [[], [3, 4], [99], [1], [0], [-3]])
def test_a_number_of_before_that_is_no_version_of_ours_is_refused(url: str, sql: Engine, versions: list[int]):
    restore(url, "0004")
    statements(
        url, "DELETE FROM schema_version", *(f"INSERT INTO schema_version VALUES ({v})" for v in versions)
    )
    refused(url, sql, "tables of version")


def test_tables_from_before_versions_were_written_down_are_refused(url: str, sql: Engine):
    restore(url, "0002")
    statements(url, "DROP TABLE schema_version")
    refused(url, sql, "tables of version 0001")


@pytest.mark.parametrize("version", ["0004", None])
@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (["ALTER TABLE jobs DROP COLUMN weight"], r"jobs\.weight"),
        (["ALTER TABLE jobs ADD COLUMN colour VARCHAR(9)"], r"jobs\.colour"),
        (["DROP TABLE rates", "CREATE TABLE rates (currency VARCHAR(3))"], r"rates\."),
        (["DROP TABLE rates"], "rates"),
        (["DROP TABLE IF EXISTS pins", "CREATE TABLE pins (foundation INTEGER)"], r"pins\."),
    ],
)
def test_tables_that_only_have_the_right_names_are_refused(
    url: str, sql: Engine, version: str | None, odd: list[str], named: str
):
    if version is None:
        JobStore(url).close()
    else:
        restore(url, version)
    statements(url, *odd)
    refused(url, sql, rf"tables that this program did not make \(.*{named}")


def test_another_programs_tables_stay_beside_ours_but_not_in_their_place(url: str, sql: Engine):
    statements(
        url,
        "CREATE TABLE customers (id INTEGER)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        "INSERT INTO alembic_version VALUES ('of-another')",
        "CREATE TABLE rates (currency VARCHAR(3))",
    )
    refused(url, sql, r"did not make \(rates\)")
    statements(url, "DROP TABLE rates")
    for _ in range(2):
        JobStore(url).close()
    assert all_of(sql)["alembic_version"] == [{"version_num": "of-another"}]


def test_an_upgrade_that_fails_half_way_changes_nothing(url: str, sql: Engine):
    restore(url, "0002")
    statements(url, f"ALTER TABLE jobs ADD COLUMN {Job.foundation.name} VARCHAR(64)")
    before = all_of(sql)
    with pytest.raises(Unavailable, match="foundation"):  # 0005 adds it; 0003 and 0004 were made by then
        JobStore(url)
    assert all_of(sql) == before


# --- an installed package --------------------------------------------------------------------------------------


def test_a_wheel_has_the_migrations(tmp_path: Path):
    pytest.importorskip("setuptools")
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "serving"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "serving/jobs/migrations").rglob("*.py")}
    assert len(wanted) >= 7
    assert wanted <= files
