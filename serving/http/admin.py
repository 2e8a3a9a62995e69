"""Routes of those who manage a tenant or the platform: keys, tenants, usage, the audit log."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from infra.errors import Forbidden
from serving.http.auth import Admin, Caller, KeyOwner, Reader
from serving.http.bodies import body_of, read_json
from serving.http.dependencies import Service
from serving.http.errors import REFUSALS
from serving.http.service import VideoService
from serving.jobs.tenant_tables import StoredKey, Tenant
from serving.jobs.usage import UsageTotal
from serving.keys import TENANT
from serving.schemas import (
    AuditList,
    AuditRow,
    CreateKey,
    KeyDeleted,
    KeyInfo,
    KeyList,
    NewKey,
    RotateKey,
    TenantDeleted,
    TenantInfo,
    TenantLimits,
    TenantList,
    UsageList,
    UsageRow,
)

DEFAULT_TENANT = "default"  # of the first key of a server without keys
USAGE_COLUMNS = ("day", "kind", "model", "jobs", "frames", "steps", "device_seconds", "bytes")
TenantName = Annotated[str, Path(pattern=TENANT)]
keys = APIRouter(prefix="/v1/keys", responses=REFUSALS, tags=["keys"])
tenants = APIRouter(prefix="/v1/tenants", responses=REFUSALS, tags=["tenants"])
manage = APIRouter(responses=REFUSALS, tags=["tenants"])


@keys.get("")
async def list_keys(
    service: Service,
    caller: KeyOwner,
    tenant: Annotated[str | None, Query(max_length=64, description="an admin's filter")] = None,
) -> KeyList:
    """The keys of your tenant in the database, oldest first, without their texts; an admin's: of all tenants."""
    whose = tenant if caller.is_admin else caller.tenant
    found = await asyncio.to_thread(service.key_store.all, whose)
    return KeyList(data=[described(row) for row in found])


@keys.post("", openapi_extra=body_of(CreateKey, "application/json"))
async def create_key(request: Request, service: Service, caller: KeyOwner) -> NewKey:
    """Create a key of your tenant; its text is in this answer and nowhere else."""
    with service.bodies.one(caller.tenant):
        body = await read_json(request, CreateKey)
    if not caller.is_admin and (body.role == "admin" or body.tenant not in (None, caller.tenant)):
        raise Forbidden(
            "only an admin's key makes keys of the role admin, or of a tenant other than its own; leave `tenant` out.",
            code="not_admin",
        )
    text, row = await asyncio.to_thread(
        service.key_store.create,
        body.tenant or caller.tenant or DEFAULT_TENANT,
        body.role,
        name=body.name,
        lifetime=body.expires_in,
        actor=caller.name,
    )
    return NewKey(**described(row).model_dump(), key=text)


@keys.post("/{key}/rotate", openapi_extra=body_of(RotateKey, "application/json"))
async def rotate_key(key: str, request: Request, service: Service, caller: KeyOwner) -> NewKey:
    """Replace a key by a new one with its tenant, name and role."""
    with service.bodies.one(caller.tenant):
        body = await read_json(request, RotateKey)
    text, row = await asyncio.to_thread(
        service.key_store.rotate,
        key,
        keep_old=body.keep_old,
        tenant=within(caller),
        actor=caller.name,
    )
    return NewKey(**described(row).model_dump(), key=text)


@keys.delete("/{key}")
async def revoke_key(key: str, service: Service, caller: KeyOwner) -> KeyDeleted:
    """Refuse a key from now on, on every ingress within a second."""
    await asyncio.to_thread(service.key_store.revoke, key, tenant=within(caller), actor=caller.name)
    return KeyDeleted(id=key)


def described(row: StoredKey) -> KeyInfo:
    """A key as the API shows it."""
    return KeyInfo(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        role=row.role,
        created_at=int(row.created_at),
        expires_at=None if row.expires_at is None else int(row.expires_at),
        revoked_at=None if row.revoked_at is None else int(row.revoked_at),
    )


def within(caller: Caller) -> str | None:
    """The tenant whose things a caller may change; None: all tenants'."""
    return None if caller.is_admin else caller.tenant


@tenants.get("")
async def list_tenants(service: Service, _caller: Admin) -> TenantList:
    """The tenants that have a key in the database, limits, or concepts of their own."""
    rows = await asyncio.to_thread(service.tenants.all)
    return TenantList(data=[await shown(service, row) for row in rows])


@tenants.post("/{tenant}", openapi_extra=body_of(TenantLimits, "application/json"))
async def limit_tenant(tenant: TenantName, request: Request, service: Service, caller: Admin) -> TenantInfo:
    """Set limits of a tenant; null removes one, and those that are absent stay."""
    with service.bodies.one(caller.tenant):
        body = await read_json(request, TenantLimits)
    given = body.model_dump(include=body.model_fields_set)
    row = await asyncio.to_thread(service.tenants.limit, tenant, caller.name, **given)
    return await shown(service, row)


@tenants.delete("/{tenant}")
async def erase_tenant(tenant: TenantName, service: Service, caller: Admin) -> TenantDeleted:
    """Erase everything of a tenant. Its keys are refused at once; the rest follows within minutes."""
    await asyncio.to_thread(service.tenant_erasure.begin, tenant, caller.name)
    return TenantDeleted(id=tenant)


async def shown(service: VideoService, row: Tenant) -> TenantInfo:
    """A tenant as the API shows it to an admin."""
    return TenantInfo(
        id=row.name,
        created_at=int(row.created_at),
        erasing=row.erasing_at is not None,
        storage_bytes=await service.stored(row.name),
        limits=limits_of(row),
    )


def limits_of(row: Tenant | None) -> TenantLimits:
    """The limits of a tenant; none if it has no row."""
    return TenantLimits(**{name: getattr(row, name, None) for name in TenantLimits.model_fields})


@manage.get("/v1/usage", responses={200: {"content": {"text/csv": {}}}}, response_model=UsageList)
async def get_usage(
    service: Service,
    caller: Reader,
    first: Annotated[date | None, Query(description="first day, UTC")] = None,
    last: Annotated[date | None, Query(description="last day, UTC")] = None,
    tenant: Annotated[str | None, Query(max_length=64, description="an admin's filter")] = None,
    format: Literal["json", "csv"] = "json",
) -> Response | UsageList:
    """What your tenant used, by day, kind and model; an admin's: of all tenants."""
    whose = tenant if caller.is_admin else caller.tenant
    totals = await service.usage(whose, str(first or ""), str(last or "9999-12-31"))
    columns = [*(["tenant"] if caller.is_admin else []), *USAGE_COLUMNS]
    if format == "csv":
        return Response(csv_of(totals, columns), media_type="text/csv")
    row = await asyncio.to_thread(service.tenants.find, caller.tenant)
    return UsageList(
        data=[UsageRow(**{name: getattr(total, name) for name in columns}) for total in totals],
        storage_bytes=await service.stored(caller.tenant),
        limits=limits_of(row),
    )


def csv_of(totals: Sequence[UsageTotal], columns: Sequence[str]) -> str:
    """The totals as a table with a header line. A text that a spreadsheet would run gets an apostrophe."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(columns)
    for total in totals:
        cells = [getattr(total, name) for name in columns]
        lines.writerow(f"'{cell}" if str(cell)[:1] in "=+-@" else cell for cell in cells)
    return out.getvalue()


@manage.get("/v1/audit")
async def get_audit(
    service: Service,
    _caller: Admin,
    before: Annotated[int | None, Query(ge=1, description="only entries with lower numbers")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditList:
    """Who did what, newest first. Tenants and concepts that are gone are ids and hashes."""
    entries = await asyncio.to_thread(
        service.audit.entries, before=before, limit=limit, concepts=service.catalogue.names()
    )
    return AuditList(data=[AuditRow(**asdict(entry)) for entry in entries])
