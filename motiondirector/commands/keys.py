"""`motiondirector keys`: API keys in a server's job database. Changes hold at once, without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from motiondirector.commands.concepts import AsJson
from motiondirector.output import print_json
from serving.keys import Role, check_tenant_name

if TYPE_CHECKING:
    from serving.jobs.database import Database
    from serving.jobs.tenant_tables import StoredKey

DataDir = Annotated[str, typer.Option(help="Folder of the server (its --data-dir).", show_default=True)]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="URL of the job database. Absent: SQLite in --data-dir.")
]
DatabaseFile = Annotated[str | None, typer.Option(help="File with the URL of the job database.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="key_..., from `keys list`.")]
DATA_DIR = "runs/serve"

group = typer.Typer(
    help="API keys of a server: create, list, rotate, revoke.", no_args_is_help=True, rich_markup_mode="rich"
)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(group, name="keys")


@group.command("create")
def create(
    tenant: Annotated[str, typer.Argument(help="Whose key; all keys of a tenant see the same.")],
    role: Annotated[
        Role, typer.Option(help="viewer reads; member makes; owner shares, deletes; admin: the platform.")
    ] = "owner",
    name: Annotated[str, typer.Option(help="For people.")] = "",
    expires_in: Annotated[float | None, typer.Option(min=1, help="Seconds. Absent: never.")] = None,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. Only its hash is kept, so it cannot be shown again.

    Example: motiondirector keys create alice --role member --name "alice's laptop"
    """
    from serving.tenants.api_keys import KeyStore
    from serving.tenants.audit import COMMAND_LINE

    check_tenant_name(tenant)
    with opened(data_dir, database, database_file) as jobs:
        text, row = KeyStore(jobs).create(tenant, role, name=name, lifetime=expires_in, actor=COMMAND_LINE)
    tell(text, row, as_json)


@group.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
    as_json: AsJson = False,
) -> None:
    """List the keys of the database, also revoked ones. Those of a key file are not in it.

    Example: motiondirector keys list --tenant alice
    """
    from serving.tenants.api_keys import KeyStore

    with opened(data_dir, database, database_file) as jobs:
        rows = KeyStore(jobs).all(tenant)
    if as_json:
        print_json([plain(row) for row in rows])
        return
    table = Table("key", "tenant", "role", "name", "created", "state")
    for row in rows:
        table.add_row(row.id, row.tenant, row.role, escape(row.name), at(row.created_at), state(row))
    Console().print(table)


@group.command("rotate")
def rotate(
    key: KeyId,
    keep_old: Annotated[float, typer.Option(min=0, help="Seconds for which the old key still works.")] = 0.0,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one of the same tenant, role and name, and print that.

    Example: motiondirector keys rotate key_0123456789abcdef --keep-old 86400
    """
    from serving.tenants.api_keys import KeyStore
    from serving.tenants.audit import COMMAND_LINE

    with opened(data_dir, database, database_file) as jobs:
        text, row = KeyStore(jobs).rotate(key, keep_old=keep_old, actor=COMMAND_LINE)
    tell(text, row, as_json)


@group.command("revoke")
def revoke(
    key: KeyId,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
) -> None:
    """Refuse a key from now on; running servers refuse it within a second.

    Example: motiondirector keys revoke key_0123456789abcdef
    """
    from serving.tenants.api_keys import KeyStore
    from serving.tenants.audit import COMMAND_LINE

    with opened(data_dir, database, database_file) as jobs:
        row = KeyStore(jobs).revoke(key, actor=COMMAND_LINE)
    typer.echo(f"{row.id} of {row.tenant} is revoked")


@contextmanager
def opened(data_dir: str, database: str | None, database_file: str | None) -> Iterator[Database]:
    """The job database that `serve` uses with the same options, during the block."""
    from pathlib import Path

    from serving.config import make_config
    from serving.jobs.database import Database

    config = make_config(data_dir=data_dir, database=database, database_file=database_file)
    if database is None and database_file is None:
        Path(data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    jobs = Database(config.database_url)
    try:
        yield jobs
    finally:
        jobs.close()


def tell(text: str, row: StoredKey, as_json: bool) -> None:
    """Print a new key."""
    if as_json:
        print_json({**plain(row), "key": text})
        return
    typer.echo(f"{row.id} of {row.tenant}, role {row.role}; the key is shown only now:", err=True)
    typer.echo(text)


def plain(row: StoredKey) -> dict[str, object]:
    """A key as JSON, without its text."""
    return {
        "id": row.id,
        "tenant": row.tenant,
        "role": row.role,
        "name": row.name,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }


def state(row: StoredKey) -> str:
    """What became of a key."""
    if row.revoked_at is not None:
        return f"revoked {at(row.revoked_at)}"
    return "valid" if row.expires_at is None else f"until {at(row.expires_at)}"


def at(moment: float) -> str:
    """A time for people."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
