"""The job database's tables, from each version to the next: Alembic applies what is missing when a database is opened.

A version is a file in `versions/`; its number is the revision that Alembic writes into the database. To change a table:

1. Dump the present tables with `tests/serving/databases/make.py`, and commit the dumps.
2. Change the classes in `serving/jobs/database.py`.
3. Add `versions/vNNNN_what.py` with `revision`, `down_revision` (the version before) and `upgrade()`. SQLite alters a
   table by `op.batch_alter_table`. Rows must keep their meaning. Never change a file that was released.

`tests/serving/jobs/test_migrations.py` then upgrades every dump, and fails while the tables differ from the classes. There is no
way back to an earlier version but a copy of the database.
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
    "jobs_alembic_version"  # not Alembic's default name, which another program may use beside ours
)
FORMER_TABLE = "schema_version"  # one row, a number: up to version 5
_ONE_AT_A_TIME = threading.Lock()  # Alembic's environment is global


def migrate(connection: Connection, metadata: MetaData, shown: str) -> None:
    """Make the tables, or bring those of an earlier version up to date, in the transaction of `connection`.

    The caller must hold a lock that keeps other processes from doing the same.

    Args:
        metadata: of the tables that the program expects.
        shown: the database, for error messages.

    Raises:
        Conflict: the tables are of no version that is known here, or others' under our names.
    """
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "serving.jobs:migrations")
    scripts = ScriptDirectory.from_config(config)
    head, known = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
    found = version_of(connection)
    if found is None and (taken := sorted(metadata.tables.keys() & inspect(connection).get_table_names())):
        raise _not_ours(shown, ", ".join(taken))
    if found is not None and found not in known:
        raise Conflict(
            f"the job database {shown} has tables of version {found}, this program has {head}; give an empty "
            "database (or another --data-dir), or run the version of the program that made it.",
            code="schema_mismatch",
        )
    with _ONE_AT_A_TIME:
        if found is not None and not _context(connection).get_current_heads():
            command.stamp(config, found)
        if found != head:
            command.upgrade(config, "head")
    if wrong := differences(connection, metadata):
        raise _not_ours(shown, wrong)


def version_of(connection: Connection) -> str | None:
    """Of the tables that are there, such as "0006"; None when there are none, "unknown" when nobody can tell."""
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        versions = list(_context(connection).get_current_heads())
    elif FORMER_TABLE in tables:
        rows = connection.execute(text(f"SELECT * FROM {FORMER_TABLE}")).all()
        versions = [f"{row[0]:04d}" for row in rows if len(row) == 1 and isinstance(row[0], int)]
    else:
        return "0001" if "jobs" in tables else None  # from before versions were written down
    return versions[0] if len(versions) == 1 else "unknown"


def differences(connection: Connection, metadata: MetaData) -> str:
    """How our tables differ from what this program expects, in a few words; "" when they do not. Others' are not looked at."""
    found = []
    for one in compare_metadata(_context(connection, metadata), metadata):
        first = one[0] if isinstance(one, list) else one  # changes of one column come as a list
        what = getattr(first[-1], "name", None) if first[0].startswith(("add_", "remove_")) else first[3]
        table = getattr(getattr(first[-1], "table", None), "name", None) or (first[2:3] and first[2])
        found.append(f"{table}.{what}" if isinstance(table, str) else str(what))
    return ", ".join(dict.fromkeys(found[:5])) + (", ..." if len(found) > 5 else "")


def _context(connection: Connection, metadata: MetaData | None = None) -> MigrationContext:
    """Alembic's view of the database; with `metadata`, of its tables alone."""
    options: dict[str, Any] = {"version_table": VERSION_TABLE}
    if metadata is not None:
        options["include_name"] = lambda name, kind, _of: kind != "table" or name in metadata.tables
    return MigrationContext.configure(connection, opts=options)


def _not_ours(shown: str, which: str) -> Conflict:
    return Conflict(
        f"the job database {shown} has tables that this program did not make ({which}); give an empty database "
        "(or another --data-dir), or restore this one from a copy.",
        code="schema_mismatch",
    )
