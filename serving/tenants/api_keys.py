"""API keys in the job database, by hash, and the keys that a server accepts: these and those of its key file.

A change holds on every ingress within FRESH seconds, without a restart. A key is found by the SHA-256 of what was
presented, as a row's primary key. The time of that search may depend on the hash, which a caller cannot choose:
to learn a stored hash digit by digit, it would need keys whose hashes begin with given digits, and each further
digit makes those sixteen times harder to find. What it would learn in the end is the hash, and not the key.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from infra.errors import NotFound
from serving.jobs.database import Database
from serving.jobs.tenant_tables import StoredKey, Tenant
from serving.keys import ROLES, ApiKey, Role, find_key, hash_key, key_id
from serving.tenants.audit import note
from serving.tenants.tenants import ensured

FRESH = 1.0  # seconds for which an ingress uses what it knows of a key
MOST_KNOWN = 4096  # keys presented to an ingress that it remembers, wrong ones included


class KeyStore:
    """The keys of a database. Thread-safe.

    Args of its methods:
        actor: who does it, for the audit log.
        tenant: None: of any tenant.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._session = database, database.sessions

    def create(
        self, tenant: str, role: Role, *, name: str = "", lifetime: float | None = None, actor: str
    ) -> tuple[str, StoredKey]:
        """A new key, and its text, which is stored nowhere."""
        with self._database.exclusive() as session:
            return self._add(session, tenant, role, name, lifetime, "key.create", actor)

    def all(self, tenant: str | None = None) -> Sequence[StoredKey]:
        """The keys, oldest first, also those that are refused by now."""
        query = select(StoredKey).order_by(StoredKey.created_at, StoredKey.id)
        with self._session() as session:
            return session.scalars(query if tenant is None else query.where(StoredKey.tenant == tenant)).all()

    def rotate(
        self, id: str, *, keep_old: float = 0.0, tenant: str | None = None, actor: str
    ) -> tuple[str, StoredKey]:
        """A new key with the tenant, name and role of another, which is refused after `keep_old` seconds.

        Raises NotFound if there is no such key, or it is refused already.
        """
        with self._database.exclusive() as session:
            old = self._valid(session, id, tenant)
            until = time.time() + keep_old
            old.expires_at = until if old.expires_at is None else min(until, old.expires_at)
            return self._add(session, old.tenant, old.role, old.name, None, "key.rotate", actor)

    def revoke(self, id: str, *, tenant: str | None = None, actor: str) -> StoredKey:
        """Refuse a key from now on. Raises NotFound if there is no such key, or it is refused already."""
        with self._database.exclusive() as session:
            row = self._valid(session, id, tenant)
            row.revoked_at = time.time()
            note(session, actor, "key.revoke", ensured(session, row.tenant).id, row.id)
            return row

    def _add(
        self,
        session: Session,
        tenant: str,
        role: str,
        name: str,
        lifetime: float | None,
        action: str,
        actor: str,
    ) -> tuple[str, StoredKey]:
        text = f"md_{secrets.token_hex(24)}"
        digest, now = hash_key(text), time.time()
        row = StoredKey(
            sha256=digest,
            id=key_id(digest),
            tenant=tenant,
            name=name,
            role=role,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        session.add(row)
        note(session, actor, action, ensured(session, tenant).id, row.id)
        return text, row

    def _valid(self, session: Session, id: str, tenant: str | None) -> StoredKey:
        row = session.scalar(select(StoredKey).where(StoredKey.id == id, *valid_now()))
        if row is None or tenant not in (None, row.tenant):
            raise NotFound(
                f"there is no key {id[:80]!a}; `motiondirector keys list` or GET /v1/keys lists them.",
                code="key_not_found",
            )
        return row


def has_keys(url: str) -> bool:
    """Whether a job database has keys, even if all are refused by now. Opens, and so creates or upgrades it."""
    with contextlib.suppress(ArgumentError):  # `Database` reports an invalid URL
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
            return False
    database = Database(url)
    try:
        with database.sessions() as session:
            return session.scalar(select(StoredKey.id).limit(1)) is not None
    finally:
        database.close()


def valid_now() -> tuple:
    """Conditions for the keys that are accepted now."""
    return (
        StoredKey.revoked_at.is_(None),
        or_(StoredKey.expires_at.is_(None), StoredKey.expires_at > time.time()),
    )


class KeyRing:
    """The keys that a server accepts. Thread-safe.

    Args:
        fixed: keys of its configuration, which need a restart to change.
    """

    def __init__(self, database: Database, fixed: Sequence[ApiKey]) -> None:
        self._session, self.fixed = database.sessions, list(fixed)
        self._known: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()  # by hash or id
        self._tenants = float("-inf"), len({key.tenant for key in self.fixed})  # when read, and their number
        self._lock = threading.Lock()

    @property
    def required(self) -> bool:
        """Whether callers need a key: there is one, or there was one in the database, even if it is refused now."""
        read_at, number = self._tenants
        if time.monotonic() - read_at > FRESH:
            with self._session() as session:
                stored = session.scalar(select(func.count(StoredKey.tenant.distinct()))) or 0
            number = len({key.tenant for key in self.fixed}) + stored
            self._tenants = (time.monotonic(), number)
        return number > 0

    @property
    def tenants(self) -> int:
        """The number of tenants with keys, as of the last `required`. Reads nothing."""
        return self._tenants[1]

    def find(self, presented: str) -> ApiKey | None:
        """The presented key, if it is accepted now."""
        digest = hash_key(presented)
        fixed = find_key(presented, self.fixed)
        return self._recent(digest, lambda: self._read(fixed, StoredKey.sha256 == digest))

    def with_id(self, id: str) -> ApiKey | None:
        """The key with this id, if it is accepted now. For an id that the server has signed: it proves no key."""
        fixed = next((key for key in self.fixed if key.id == id), None)
        return self._recent(id, lambda: self._read(fixed, StoredKey.id == id))

    def _recent(self, name: str, read: Callable[[], ApiKey | None]) -> ApiKey | None:
        """What is known of the key with this hash or id; it is read anew after FRESH seconds."""
        now = time.monotonic()
        with self._lock:
            read_at, key = self._known.get(name, (float("-inf"), None))
        if now - read_at <= FRESH:
            return key
        key = read()
        with self._lock:
            self._known[name] = (now, key)
            self._known.move_to_end(name)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return key

    def _read(self, fixed: ApiKey | None, which: ColumnElement[bool]) -> ApiKey | None:
        with self._session() as session:
            row = session.scalar(select(StoredKey).where(which, *valid_now()))
            if fixed is None and row is None:
                return None
            tenant = session.get(Tenant, fixed.tenant if fixed is not None else row.tenant)  # type: ignore[union-attr]
        if tenant is not None and tenant.erasing_at is not None:
            return None
        if fixed is None:
            return api_key(row, tenant) if row is not None else None
        if tenant is None or tenant.max_priority is None:
            return fixed
        return fixed.model_copy(update={"max_priority": min(fixed.max_priority, tenant.max_priority)})


def api_key(row: StoredKey, tenant: Tenant | None) -> ApiKey:
    """A key of the database with its role's scopes and its tenant's limits."""
    role: Role = row.role if row.role in ROLES else "viewer"  # type: ignore[assignment]  # of a later version
    return ApiKey(
        sha256=row.sha256,
        name=row.name,
        tenant=row.tenant,
        role=role,
        requests_per_minute=tenant.requests_per_minute if tenant else None,
        concurrency=tenant.concurrency if tenant else None,
        max_priority=(tenant.max_priority if tenant else None) or 0,
    )
