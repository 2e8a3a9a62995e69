"""The audit log: who did what, to what, when. Rows are only added; the database itself refuses anything else.

A row names a tenant by its random id and a concept by a hash, so that it tells nothing of a tenant that was
erased. While the tenant and the concept exist, `AuditLog.entries` adds their names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from serving.jobs.database import Database
from serving.jobs.tenant_tables import AuditEntry, Tenant

COMMAND_LINE = "command line"
LOCAL = "this machine"  # a program that asks a server without keys


@dataclass(frozen=True)
class Recorded:
    """An entry with the names that are known now."""

    number: int
    at: float  # Unix seconds
    actor: str  # id of a key, `command line` or `this machine`
    action: str
    tenant: str  # its name, or its id once it is gone; empty: none
    subject: str  # an id; of a concept its name, or a hash once it is gone


def concept_subject(name: str) -> str:
    """What the log calls a concept, by its name in the registry."""
    return f"concept_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def note(session: Session, actor: str, action: str, tenant: str = "", subject: str = "") -> None:
    """Add an entry in the transaction of what it reports.

    Args:
        tenant: id of the tenant that it is about.
    """
    session.add(AuditEntry(at=time.time(), actor=actor, action=action, tenant=tenant, subject=subject))


class AuditLog:
    """The audit log of a database."""

    def __init__(self, database: Database) -> None:
        self._session = database.sessions

    def entries(
        self, *, before: int | None = None, limit: int = 100, concepts: Sequence[str] = ()
    ) -> list[Recorded]:
        """Entries, newest first.

        Args:
            before: only those with lower numbers.
            concepts: names in the registry, to name the subjects.
        """
        query = select(AuditEntry).order_by(AuditEntry.number.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditEntry.number < before)
        named = {concept_subject(name): name for name in concepts}
        with self._session() as session:
            names = {row.id: row.name for row in session.scalars(select(Tenant))}
            return [
                Recorded(
                    row.number,
                    row.at,
                    row.actor,
                    row.action,
                    names.get(row.tenant, row.tenant),
                    named.get(row.subject, row.subject),
                )
                for row in session.scalars(query)
            ]
