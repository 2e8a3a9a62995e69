"""Tables of the job database about tenants: names, keys, shares, usage, what is being erased, who did what.

A tenant is known by its name (in keys, jobs and quotas) and by a random id (in the registry and the audit log).
Times are Unix seconds.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from serving.jobs.base import Base


class Tenant(Base):
    """One tenant: its id and its limits (None: no limit)."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(16), unique=True)  # random; prefix of its concepts in the registry
    created_at: Mapped[float] = mapped_column(Float)
    erasing_at: Mapped[float | None] = mapped_column(Float, default=None)  # since then its keys are refused
    # apply to all keys of the tenant
    storage_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    videos_per_day: Mapped[int | None] = mapped_column(Integer, default=None)
    trainings_per_day: Mapped[int | None] = mapped_column(Integer, default=None)
    trainings_at_once: Mapped[int | None] = mapped_column(Integer, default=None)
    max_priority: Mapped[int | None] = mapped_column(Integer, default=None)
    # apply to keys of the database; those of a key file have their own
    requests_per_minute: Mapped[float | None] = mapped_column(Float, default=None)
    concurrency: Mapped[int | None] = mapped_column(Integer, default=None)


class StoredKey(Base):
    """An API key, by the SHA-256 of its text."""

    __tablename__ = "api_keys"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(100))  # for people
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float | None] = mapped_column(Float, default=None)  # refused from then on
    revoked_at: Mapped[float | None] = mapped_column(Float, default=None)


class ConceptShare(Base):
    """A tenant's concept that another tenant, or everyone, may use."""

    __tablename__ = "concept_shares"

    concept: Mapped[str] = mapped_column(String(64), primary_key=True)  # its name in the registry
    # a tenant's name, whether or not it exists: so nobody learns that; "*": every tenant
    shared_with: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    at: Mapped[float] = mapped_column(Float)


class Usage(Base):
    """What one job used, written once, in the transaction of its end. It outlives the job."""

    __tablename__ = "usage"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(16))  # video or training
    day: Mapped[str] = mapped_column(String(10), index=True)  # 2026-12-31, UTC
    model: Mapped[str] = mapped_column(String(256))  # as the tenant names it
    frames: Mapped[int] = mapped_column(Integer)
    steps: Mapped[int] = mapped_column(Integer)
    device_seconds: Mapped[float | None] = mapped_column(Float)  # None: unknown
    bytes: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[float] = mapped_column(Float)


class AuditEntry(Base):
    """Who did what, to what, when. Triggers in the database refuse to change or delete a row.

    It has ids only, so nothing of a tenant is left in it once the names are erased.
    """

    __tablename__ = "audit_log"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float)
    actor: Mapped[str] = mapped_column(String(64))  # id of a key, or `command line`
    action: Mapped[str] = mapped_column(String(40))
    tenant: Mapped[str] = mapped_column(String(16))  # its id; empty: none
    subject: Mapped[str] = mapped_column(String(100))  # an id, or the hash of a name


class Erasure(Base):
    """A version of a concept that is gone for callers, and is erased once no accepted job needs it."""

    __tablename__ = "erasures"

    concept: Mapped[str] = mapped_column(String(64), primary_key=True)  # its name in the registry
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    hashes: Mapped[list[str]]  # SHA-256 of its files
    asked_at: Mapped[float] = mapped_column(Float)
