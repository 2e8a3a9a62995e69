"""`motiondirector tenants`: limits and usage of a server's tenants, its audit log, and the erasure of a tenant."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from motiondirector.commands.concepts import DEFAULT_REGISTRY, AsJson, RegistryUri
from motiondirector.commands.keys import DATA_DIR, DatabaseFile, DatabaseUrl, DataDir, at, opened
from motiondirector.exits import NOT_DONE
from motiondirector.output import print_json

if TYPE_CHECKING:
    from infra.storage import Storage
    from serving.jobs.database import Database

Name = Annotated[str, typer.Argument(metavar="TENANT", help="Its name in the keys.")]
Limit = Annotated[str | None, typer.Option(metavar="N|none", help="none: no limit. Absent: as it is.")]
SERVER_SEEN = 30.0  # seconds after which a server that did not report counts as stopped

group = typer.Typer(
    help="Tenants of a server: list, name, limit, usage, audit, erase.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(group, name="tenants")


@group.command("list")
def list_tenants(
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
    as_json: AsJson = False,
) -> None:
    """List the tenants that have a key in the database, limits, or concepts of their own.

    Example: motiondirector tenants list
    """
    from serving.tenants.tenants import LIMITS, Tenants

    with opened(data_dir, database, database_file) as jobs:
        rows = Tenants(jobs).all()
    told = [
        {
            "tenant": row.name,
            "concepts": f"t-{row.id}.",
            "erasing": row.erasing_at is not None,
            "limits": {name: getattr(row, name) for name in LIMITS if getattr(row, name) is not None},
        }
        for row in rows
    ]
    if as_json:
        print_json(told)
        return
    table = Table("tenant", "its concepts in the registry", "limits", "")
    for row in told:
        limits: Any = row["limits"]
        shown = ", ".join(f"{name} {value}" for name, value in limits.items()) or "none"
        table.add_row(row["tenant"], f"{row['concepts']}*", shown, "being erased" if row["erasing"] else "")  # type: ignore[arg-type]
    Console().print(table)


@group.command("name")
def name(
    tenant: Name,
    concept: Annotated[str, typer.Argument(help="The concept as the tenant calls it.")],
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
) -> None:
    """Print the name in the registry of a tenant's own concept, to train or publish it for that tenant.

    Example: motiondirector train --concept $(motiondirector tenants name alice walk) --data clips
    """
    from serving.keys import check_tenant_name
    from serving.tenants.tenants import Tenants

    with opened(data_dir, database, database_file) as jobs:
        typer.echo(Tenants(jobs).registry_name(check_tenant_name(tenant), concept))


@group.command("limit")
def limit(
    tenant: Name,
    storage_bytes: Limit = None,
    videos_per_day: Limit = None,
    trainings_per_day: Limit = None,
    trainings_at_once: Limit = None,
    max_priority: Limit = None,
    requests_per_minute: Limit = None,
    concurrency: Limit = None,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
) -> None:
    """Set limits of a tenant. Running servers apply them at once.

    Example: motiondirector tenants limit alice --videos-per-day 100 --storage-bytes 5000000000
    """
    from infra.setting import configured
    from serving.keys import check_tenant_name
    from serving.schemas import TenantLimits
    from serving.tenants.tenants import Tenants

    given = {
        "storage_bytes": storage_bytes,
        "videos_per_day": videos_per_day,
        "trainings_per_day": trainings_per_day,
        "trainings_at_once": trainings_at_once,
        "max_priority": max_priority,
        "requests_per_minute": requests_per_minute,
        "concurrency": concurrency,
    }
    values = {name: limit_of(name, text) for name, text in given.items() if text is not None}
    checked = configured(TenantLimits, values)
    with opened(data_dir, database, database_file) as jobs:
        row = Tenants(jobs).limit(
            check_tenant_name(tenant), **checked.model_dump(include=checked.model_fields_set)
        )
        left = {name: getattr(row, name) for name in given if getattr(row, name) is not None}
    typer.echo(f"{tenant}: {', '.join(f'{name} {value}' for name, value in left.items()) or 'no limits'}")


@group.command("usage")
def usage(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    first: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="First day, UTC.")] = "",
    last: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="Last day, UTC.")] = "9999-12-31",
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what tenants used, by day, kind and model.

    Example: motiondirector tenants usage --tenant alice --first 2026-12-01
    """
    from dataclasses import asdict

    from serving.jobs.usage import UsageLog

    with opened(data_dir, database, database_file) as jobs:
        totals = UsageLog(jobs).by_day(tenant, first, last)
    if as_json:
        print_json([asdict(total) for total in totals])
        return
    table = Table("day", "tenant", "kind", "model", "jobs", "frames", "steps", "device s", "bytes")
    for one in totals:
        numbers = (one.jobs, one.frames, one.steps, f"{one.device_seconds:.1f}", one.bytes)
        table.add_row(one.day, one.tenant, one.kind, escape(one.model), *map(str, numbers))
    Console().print(table)


@group.command("audit")
def audit(
    most: Annotated[int, typer.Option("--limit", min=1, help="Number of entries.")] = 50,
    registry: RegistryUri = DEFAULT_REGISTRY,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show who did what, newest first. Tenants and concepts that are gone are ids and hashes.

    Example: motiondirector tenants audit --limit 20
    """
    from dataclasses import asdict

    from infra.registry import open_registry
    from serving.tenants.audit import AuditLog

    names = [info.name for info in open_registry(registry).concepts()]
    with opened(data_dir, database, database_file) as jobs:
        entries = AuditLog(jobs).entries(limit=most, concepts=names)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("number", "when", "who", "what", "tenant", "which")
    for entry in entries:
        table.add_row(str(entry.number), at(entry.at), entry.actor, entry.action, entry.tenant, entry.subject)
    Console().print(table)


@group.command("erase")
def erase(
    tenant: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for running servers.")] = 300.0,
    registry: RegistryUri = DEFAULT_REGISTRY,
    results: Annotated[
        str | None, typer.Option(help="Folder or s3:// URI of the videos. Absent: in --data-dir.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    database: DatabaseUrl = None,
    database_file: DatabaseFile = None,
) -> None:
    """Erase everything of a tenant: keys, videos, files, trainings, concepts, usage, copies in caches. It cannot be undone.

    Its keys are refused at once. Running servers erase the rest; without one, this command does, but for trainings that
    a server must stop first. Remove its keys
    from a key file first. Exits with 1 if something is left after --wait, which the servers go on with.

    Example: motiondirector tenants erase alice --registry s3://bucket/registry
    """
    from pathlib import Path

    from infra.registry import open_registry
    from infra.storage import open_storage
    from serving.jobs.jobs import JobStore
    from serving.tenants.audit import COMMAND_LINE
    from serving.tenants.erasure import Erasures
    from serving.tenants.tenant_erasure import TenantErasure
    from serving.tenants.tenants import Tenants

    if not yes:
        typer.confirm(f"Erase everything of {tenant}?", abort=True)
    with opened(data_dir, database, database_file) as jobs:
        store, found = JobStore(jobs), open_registry(registry)
        erasures, tenants = Erasures(jobs, found), Tenants(jobs)
        videos = open_storage(results or str(Path(data_dir).absolute()))
        learned = files_and_trainings(jobs, videos, registry)
        everything = TenantErasure(store, erasures, found, videos, also=[learned])
        everything.begin(tenant, COMMAND_LINE)
        row = tenants.find(tenant)
        assert row is not None
        end = time.monotonic() + wait
        while tenants.find(tenant) is not None:
            if not is_served(jobs):  # otherwise the server does all of it, with its engines
                everything.proceed(tenant, row.id)
                due = erasures.due(grace=0.0)
                erasures.erase(due)
                for sha256 in {sha256 for one in due for sha256 in one.hashes}:
                    Path(data_dir, "adapters", f"{sha256}.safetensors").unlink(missing_ok=True)
                erasures.done(due)
                everything.proceed(tenant, row.id)
            if tenants.find(tenant) is not None:
                if time.monotonic() >= end:
                    typer.echo(
                        f"{tenant} is refused and not wholly erased yet; servers go on with it", err=True
                    )
                    raise typer.Exit(NOT_DONE)
                time.sleep(0.5)
    typer.echo(f"{tenant} is erased")


def files_and_trainings(jobs: Database, storage: Storage, registry: str) -> Callable[[str, str], bool]:
    """The step of an erasure that removes a tenant's files and trainings."""
    from motiondirector.service.trainer import BatchTrainer
    from serving.config import ServeConfig
    from serving.files.store import FileLimits, FileStore
    from serving.trainings.store import TrainingStore

    config = ServeConfig()
    limits = FileLimits(config.max_file_bytes, config.files_bytes, config.files_count)
    files, trainings = FileStore(jobs, storage, limits), TrainingStore(jobs, config.max_trainings)
    trainer = BatchTrainer(registry, None, most_steps=1)  # erases, and trains nothing

    def erase(tenant: str, id: str) -> bool:
        files.erase(tenant)
        if not trainings.erase(tenant):
            return False  # a server must stop them first
        trainer.forget(f"t-{id}.")
        return True

    return erase


def is_served(jobs: Any) -> bool:
    """Whether a server that uses this database has reported lately: its engines may hold copies."""
    from sqlalchemy import select

    from serving.jobs.database import Server

    with jobs.sessions() as session:
        seen = select(Server.seen).where(Server.seen > jobs.now() - SERVER_SEEN).limit(1)
        return session.scalar(seen) is not None


def limit_of(name: str, text: str) -> float | int | None:
    """A limit's value; None for `none`. Raises InvalidInput."""
    from infra.errors import InvalidInput

    if text == "none":
        return None
    try:
        return float(text) if name == "requests_per_minute" else int(text)
    except ValueError:
        raise InvalidInput(
            f"--{name.replace('_', '-')} {text[:40]!a}: expected a number, or none for no limit."
        ) from None
