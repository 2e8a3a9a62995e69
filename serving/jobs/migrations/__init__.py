"""Migrations of the job database. Alembic applies the missing ones when a database is opened.

A version is a file in `versions/`; Alembic writes its number into the database as the revision. To change a table:

1. Dump the present tables with `tests/serving/databases/make.py`, and commit the dumps.
2. Change the classes in `serving/jobs/database.py`.
3. Add `versions/vNNNN_what.py` with `revision`, `down_revision` (the previous version) and `upgrade()`. To alter
   a table in SQLite, use `op.batch_alter_table`. Rows must keep their meaning. Never change a released file.

`tests/serving/jobs/test_migrations.py` upgrades every dump, and fails while the tables differ from the classes.
A database cannot be downgraded; only a copy restores an earlier version.
"""

from __future__ import annotations

import threading
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, text

from infra.errors import Conflict

VERSION_TABLE = (
    "jobs_alembic_version"  # not Alembic's default name, which another program may use in this database
)
FORMER_TABLE = "schema_version"  # up to version 5: one row with the number
_ONE_AT_A_TIME = threading.Lock()  # Alembic's environment is global


def migrate(connection: Connection, metadata: MetaData, shown: str) -> None:
    """Create the tables, or upgrade those of an earlier version, in the transaction of `connection`.

    The caller must hold a lock that keeps other processes from doing the same.

    Args:
        metadata: of the tables that the program expects.
        shown: the database's name in errors.

    Raises:
        Conflict: the tables have an unknown version, or another program's tables have our names.
    """
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "serving.jobs:migrations")
    scripts = ScriptDirectory.from_config(config)
    head, known = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
    found = version_of(connection)
    if found is None and (taken := sorted(metadata.tables.keys() & inspect(connection).get_table_names())):
        raise _foreign_tables(shown, ", ".join(taken))
    if found is not None and found not in known:
        raise Conflict(
            f"the job database {shown} has tables of version {found}, but this program needs {head}; give an empty "
            "database (or another --data-dir), or run the version of the program that made it.",
            code="schema_mismatch",
        )
    with _ONE_AT_A_TIME:
        if found is not None and not _context(connection).get_current_heads():
            command.stamp(config, found)
        if found != head:
            command.upgrade(config, "head")
    if wrong := differences(connection, metadata):
        raise _foreign_tables(shown, wrong)


def version_of(connection: Connection) -> str | None:
    """The version of the existing tables, such as "0006"; None without tables, "unknown" if it is unclear."""
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        versions = list(_context(connection).get_current_heads())
    elif FORMER_TABLE in tables:
        rows = connection.execute(text(f"SELECT * FROM {FORMER_TABLE}")).all()
        versions = [f"{row[0]:04d}" for row in rows if len(row) == 1 and isinstance(row[0], int)]
    else:
        return "0001" if "jobs" in tables else None  # version 1 was not recorded
    return versions[0] if len(versions) == 1 else "unknown"


def differences(connection: Connection, metadata: MetaData) -> str:
    """A short list of how our tables differ from what this program expects, or "". Ignores other tables."""
    found = []
    for one in compare_metadata(_context(connection, metadata), metadata):
        first = one[0] if isinstance(one, list) else one  # changes of one column come as a list
        what = getattr(first[-1], "name", None) if first[0].startswith(("add_", "remove_")) else first[3]
        table = getattr(getattr(first[-1], "table", None), "name", None) or (first[2:3] and first[2])
        found.append(f"{table}.{what}" if isinstance(table, str) else str(what))
    return ", ".join(dict.fromkeys(found[:5])) + (", ..." if len(found) > 5 else "")


def _context(connection: Connection, metadata: MetaData | None = None) -> MigrationContext:
    """Alembic's view of the database; with `metadata`, of these tables only."""
    options: dict[str, Any] = {"version_table": VERSION_TABLE}
    if metadata is not None:
        options["include_name"] = lambda name, kind, _of: kind != "table" or name in metadata.tables
    return MigrationContext.configure(connection, opts=options)


def _foreign_tables(shown: str, which: str) -> Conflict:
    return Conflict(
        f"the job database {shown} has tables that this program did not make ({which}); give an empty database "
        "(or another --data-dir), or restore this one from a copy.",
        code="schema_mismatch",
    )
