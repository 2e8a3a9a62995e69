"""The job database (SQLite or PostgreSQL): its tables, and how it is opened.

Times are Unix seconds. Leases are compared on one clock: the database server's, or with SQLite this machine's.

Opening a database upgrades tables of an earlier version (`serving.jobs.migrations` says how to change a table).
Another program's tables with the same names are refused at once, not by an error at each request.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    Integer,
    String,
    Text,
    UniqueConstraint,
    cast,
    create_engine,
    event,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine import Engine as SqlEngine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from infra.errors import Conflict, Unavailable, UserError
from serving.jobs import tenant_tables as tenant_tables  # its tables are part of the database
from serving.jobs import training_tables as training_tables  # opening a database needs all its tables
from serving.jobs.base import Base as Base
from serving.jobs.migrations import migrate

PRIVATE = 0o600  # mode of a SQLite database: only its owner may read prompts
BUSY_MS = 10_000  # how long a SQLite connection waits for another writer
OPENING_MS = 300_000  # the same when opening a database, which another process may be upgrading
ADVISORY_LOCK = 0x6D6F74696F6E  # PostgreSQL's key for the lock of `Database.exclusive`


class Job(Base):
    """One accepted request. `request` is a `serving.requests.VideoRequest` as JSON."""

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("tenant", "idempotency_key"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)  # order of acceptance
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)  # who may see it (`serving.keys`)
    state: Mapped[str] = mapped_column(String(16), index=True)
    # fingerprint of the model it was accepted for; None in rows older than version 5, which any model may run
    foundation: Mapped[str | None] = mapped_column(String(64), default=None)
    model: Mapped[str] = mapped_column(String(256))
    request: Mapped[dict[str, Any]]
    weight: Mapped[float] = mapped_column(Float, default=1.0)  # its share relative to an ordinary job's
    progress: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)  # engines lost while running it
    owner: Mapped[str | None] = mapped_column(
        String(64), index=True, default=None
    )  # the dispatcher that claimed it
    lease_until: Mapped[float | None] = mapped_column(Float, default=None)  # then its owner counts as dead
    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float, default=None)
    finished_at: Mapped[float | None] = mapped_column(Float, default=None)
    expires_at: Mapped[float | None] = mapped_column(Float, index=True, default=None)
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    neighbours: Mapped[int | None] = mapped_column(Integer, default=None)  # most other requests in a step
    error_code: Mapped[str | None] = mapped_column(String(64), default=None)
    error_message: Mapped[str | None] = mapped_column(String(2000), default=None)
    result_key: Mapped[str | None] = mapped_column(String(256), default=None)
    result_sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    result_size: Mapped[int | None] = mapped_column(Integer, default=None)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), default=None)
    body_sha256: Mapped[str | None] = mapped_column(String(64), default=None)  # of the request with that key
    webhook_url: Mapped[str | None] = mapped_column(String(2000), default=None)


class Delivery(Base):
    """One webhook call, written in one transaction with the end of the job that it reports."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # receivers recognize repeats by it
    tenant: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(String(2000))
    body: Mapped[str] = mapped_column(Text)  # exactly what is signed
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[float] = mapped_column(Float)
    next_at: Mapped[float | None] = mapped_column(Float, index=True)  # None: delivered or given up
    delivered_at: Mapped[float | None] = mapped_column(Float, default=None)
    error: Mapped[str | None] = mapped_column(String(500), default=None)  # of the last attempt

    @classmethod
    def of(cls, job_id: str, state: str, tenant: str, url: str, what: str = "video") -> Delivery:
        """The call that reports the end of a job (`what`), in the format of OpenAI's webhook events."""
        now = time.time()
        id = f"evt_{secrets.token_hex(16)}"
        content = {
            "id": id,
            "object": "event",
            "type": f"{what}.{state}",
            "created_at": int(now),
            "data": {"id": job_id, "status": state},
        }
        return cls(id=id, tenant=tenant, url=url, body=json.dumps(content), created_at=now, next_at=now)


class Rate(Base):
    """A tenant's use of its allowed rate (GCRA's theoretical arrival time)."""

    __tablename__ = "rates"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    arrival: Mapped[float] = mapped_column(Float)


class Flow(Base):
    """How far a tenant's jobs of one weight have been served (`serving.jobs.claims`)."""

    __tablename__ = "flows"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    weight: Mapped[float] = mapped_column(Float, primary_key=True)
    served: Mapped[float] = mapped_column(Float)  # virtual time: finish tag of its last claimed job


class Pin(Base):
    """An adapter that every engine of a foundation must keep in a slot (`serving.jobs.pins`)."""

    __tablename__ = "pins"

    foundation: Mapped[str] = mapped_column(String(64), primary_key=True)  # its fingerprint
    path: Mapped[str] = mapped_column(String(16), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    concept: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    pinned: Mapped[bool] = mapped_column(Boolean)  # False: unpinned; the newest such row keeps its revision
    revision: Mapped[int] = mapped_column(Integer)  # of the foundation's pins when this row was written


class Server(Base):
    """When a dispatcher last reported that it serves a foundation."""

    __tablename__ = "servers"

    foundation: Mapped[str] = mapped_column(String(64), primary_key=True)  # its fingerprint
    seen: Mapped[float] = mapped_column(Float)


class Database:
    """Sessions on one database. Thread-safe; several processes may share it.

    Raises Unavailable if it cannot be opened, and Conflict if its tables are not those of this program's version.
    """

    def __init__(self, url: str) -> None:
        try:
            shown = make_url(url).render_as_string(hide_password=True)
        except ArgumentError:
            raise UserError(
                "--database is not a SQLAlchemy URL; give one such as sqlite:////data/jobs.sqlite or "
                "postgresql+psycopg://user:password@host/name.",
                code="invalid_value",
            ) from None
        try:
            self._sql = open_sql(url)
            self.sessions: sessionmaker[Session] = sessionmaker(self._sql, expire_on_commit=False)
            with self.exclusive(OPENING_MS) as session:
                migrate(session.connection(), Base.metadata, shown)
        except (SQLAlchemyError, ImportError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise Unavailable(
                f"the job database {shown} cannot be opened ({reason}); give a writable --data-dir or a database URL.",
                code="database_unavailable",
            ) from error

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._sql.dialect.name

    def now(self) -> ColumnElement[float]:
        """The database's time as an expression, so that machines with different clocks agree on leases."""
        if self.dialect == "postgresql":
            return cast(func.extract("epoch", func.clock_timestamp()), Float)
        return literal(time.time())

    @contextmanager
    def exclusive(self, wait_ms: int | None = None) -> Iterator[Session]:
        """A transaction that excludes all others of its kind, in any process: count, decide, insert.

        Args:
            wait_ms: with SQLite, the longest wait for another transaction; `BUSY_MS` by default.
        """
        with self.sessions.begin() as session:
            if self.dialect == "postgresql":
                session.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            else:
                if wait_ms is not None:
                    session.execute(text(f"PRAGMA busy_timeout={wait_ms}"))
                session.execute(text("BEGIN IMMEDIATE"))
                session.execute(text(f"PRAGMA busy_timeout={BUSY_MS}"))
            yield session

    def scrub(self) -> None:
        """Remove what was deleted from SQLite's log, where old pages stay; not while another process reads them."""
        if self.dialect == "sqlite":
            with self._sql.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def ping(self) -> None:
        """Raise SQLAlchemyError if the database does not answer."""
        with self.sessions() as session:
            session.execute(select(Job.number).limit(1))

    def close(self) -> None:
        self._sql.dispose()


def open_sql(url: str) -> SqlEngine:
    """Connect. SQLite uses WAL (readers never wait for the writer) and full fsync: an accepted job is on disk.

    Only the owner can access its files, whatever folder they are in, and deleted data is overwritten.
    """
    parsed = make_url(url)
    dialect = parsed.get_backend_name()
    if dialect not in ("sqlite", "postgresql"):
        raise UserError(
            f"--database names {dialect}, which is not supported; expected sqlite or postgresql.",
            code="invalid_value",
        )
    if dialect == "postgresql":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    make_private(parsed)
    sql = create_engine(url, pool_pre_ping=True)

    @event.listens_for(sql, "connect")
    def pragmas(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        _use_wal(connection)
        for pragma in ("synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return sql


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite does not wait (`busy_timeout`) while another process turns it on, so we do."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def make_private(url: URL) -> None:
    """Create a SQLite database's file if it is missing, and remove other users' permissions from it.

    SQLite gives its -wal and -shm files the mode of the file. Raises UserError if we may not change the mode.
    """
    if not url.database or url.database == ":memory:":
        return
    if url.database.startswith("file:"):
        raise UserError(
            "--database names a SQLite URI (file:...); give a path, such as sqlite:////data/jobs.sqlite.",
            code="invalid_value",
        )
    file = Path(url.database)
    with contextlib.suppress(OSError):  # it exists, or it cannot be created, which opening it will report
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))
    for path in (file, *(file.with_name(f"{file.name}-{part}") for part in ("wal", "shm", "journal"))):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mode & 0o777 & ~PRIVATE:
                try:
                    path.chmod(PRIVATE)
                except PermissionError:
                    raise Conflict(
                        f"the job database {path} belongs to another user and is readable by others; run as its owner, or "
                        "give another --data-dir.",
                        code="access_denied",
                    ) from None
