"""The tenants of a database: their random ids, and with whom each shares its concepts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from serving.jobs.database import Database
from serving.jobs.tenant_tables import ConceptShare, Tenant
from serving.tenants.audit import COMMAND_LINE, concept_subject, note
from serving.tenants.namespaces import Namespace, private_name, split_name

EVERYONE = "*"
LIMITS = (
    "storage_bytes",
    "videos_per_day",
    "trainings_per_day",
    "trainings_at_once",
    "max_priority",
    "requests_per_minute",
    "concurrency",
)  # columns of `Tenant`


class Tenants:
    """Thread-safe; several processes may share one database.

    A tenant gets a row when it first needs one: a concept of its own, a key in the database, or a limit.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._session = database, database.sessions

    def find(self, name: str) -> Tenant | None:
        """The tenant of this name, if it has a row."""
        with self._session() as session:
            return session.get(Tenant, name)

    def ensure(self, name: str) -> Tenant:
        """The tenant of this name, with a new row if it has none."""
        with self._database.exclusive() as session:
            return ensured(session, name)

    def all(self) -> Sequence[Tenant]:
        """Every tenant that has a row, by name."""
        with self._session() as session:
            return session.scalars(select(Tenant).order_by(Tenant.name)).all()

    def limit(self, name: str, actor: str = COMMAND_LINE, **limits: float | None) -> Tenant:
        """Set limits of a tenant (columns of `Tenant`; None: no limit); the others stay. Returns its row."""
        with self._database.exclusive() as session:
            row = ensured(session, name)
            for column, value in limits.items():
                assert column in LIMITS, column
                setattr(row, column, value)
            note(session, actor, "tenant.limit", row.id)
            return row

    def registry_name(self, tenant: str, concept: str) -> str:
        """The name in the registry under which a tenant's concept is published. `owner_of` is the inverse.

        A server without keys has one user, "", whose concepts are all of the registry.

        Raises InvalidInput for a name that a tenant's concept cannot have.
        """
        return private_name(self.ensure(tenant).id, concept) if tenant else concept

    def owner_of(self, name: str) -> tuple[str, str] | None:
        """(tenant, concept) of a name in the registry; None for one of all tenants, or of a tenant that is gone."""
        id, concept = split_name(name)
        if id is None:
            return None
        with self._session() as session:
            owner = session.scalar(select(Tenant.name).where(Tenant.id == id))
        return None if owner is None else (owner, concept)

    def namespace(self, tenant: str) -> Namespace:
        """What a tenant sees of the registry now."""
        with self._session() as session:
            row = session.get(Tenant, tenant)
            query = (
                select(ConceptShare.concept)
                .where(ConceptShare.shared_with.in_((tenant, EVERYONE)))
                .order_by(ConceptShare.at, ConceptShare.concept)
            )
            shared = dict.fromkeys(session.scalars(query))
        id = row.id if row is not None else None
        return Namespace(id, tuple(name for name in shared if split_name(name)[0] != id))

    def share(self, name: str, with_whom: Collection[str], actor: str) -> None:
        """Share a concept (its name in the registry) with these tenants and no others; `EVERYONE` is all.

        Names of tenants are kept as given, existing or not: nothing tells its owner which of them exist.
        """
        with self._database.exclusive() as session:
            mine = ConceptShare.concept == name
            known = set(session.scalars(select(ConceptShare.shared_with).where(mine)))
            session.execute(delete(ConceptShare).where(mine, ConceptShare.shared_with.not_in(with_whom)))
            for tenant in sorted(set(with_whom) - known):
                session.add(ConceptShare(concept=name, shared_with=tenant, at=time.time()))
            note(session, actor, "concept.share", split_name(name)[0] or "", concept_subject(name))

    def shares(self, id: str | None) -> dict[str, list[str]]:
        """With whom each concept of a tenant is shared, by its name in the registry."""
        found: dict[str, list[str]] = {}
        if id is not None:
            with self._session() as session:
                own = select(ConceptShare).where(ConceptShare.concept.startswith(f"t-{id}."))
                for row in session.scalars(own.order_by(ConceptShare.shared_with)):
                    found.setdefault(row.concept, []).append(row.shared_with)
        return found


def ensured(session: Session, name: str) -> Tenant:
    """The tenant's row, new if there is none. The session must be exclusive."""
    row = session.get(Tenant, name)
    if row is None:
        row = Tenant(name=name, id=secrets.token_hex(8), created_at=time.time())
        session.add(row)
        session.flush()
    return row
