"""The tables of uploaded files and of trainings, in the job database. Times are Unix seconds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Float, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from serving.jobs.base import Base

SENTENCE = 2000  # characters of a stored message


class StoredFile(Base):
    """One uploaded file; its bytes are an object in the results storage (`serving.files.store`)."""

    __tablename__ = "files"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)  # order of arrival
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)  # who may see it (`serving.keys`)
    state: Mapped[str] = mapped_column(String(16), index=True)  # uploading, keeping, stored or deleting
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(
        BigInteger
    )  # bytes; while uploading, the bytes that are reserved for it
    sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    created_at: Mapped[float] = mapped_column(Float)
    # when an upload counts as broken off, or a stored file is deleted; None: it stays
    expires_at: Mapped[float | None] = mapped_column(Float, index=True, default=None)
    lifetime: Mapped[float | None] = mapped_column(
        Float, default=None
    )  # seconds to keep it once it is stored


class UploadPart(Base):
    """One part of a file that is uploaded in parts; its bytes are an object until the upload ends."""

    __tablename__ = "upload_parts"
    __table_args__ = (UniqueConstraint("file", "place"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    file: Mapped[str] = mapped_column(String(64), index=True)  # id of the file that it is a part of
    place: Mapped[int | None] = mapped_column(Integer, default=None)  # the sender's number for it
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(Float)


class Training(Base):
    """One accepted training. `request` is a `serving.trainings.request.TrainingRequest` as JSON."""

    __tablename__ = "trainings"
    __table_args__ = (UniqueConstraint("tenant", "idempotency_key"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)  # order of acceptance
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(24), index=True)
    concept: Mapped[str] = mapped_column(String(64), index=True)  # its name in the registry
    foundation: Mapped[str] = mapped_column(String(64))  # fingerprint of the model that learns it
    request: Mapped[dict[str, Any]]
    # what the trainer needs once the files are accepted; opaque here
    work: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    entered: Mapped[bool] = mapped_column(Boolean, default=False)  # the trainer has it
    settled: Mapped[bool] = mapped_column(
        Boolean, index=True, default=False
    )  # ended, and nothing of it is left over
    revision: Mapped[int] = mapped_column(
        Integer, default=0
    )  # writes of this row: changes compare and swap it
    owner: Mapped[str | None] = mapped_column(
        String(64), default=None
    )  # the ingress that validates its files
    lease_until: Mapped[float | None] = mapped_column(Float, default=None)  # then its owner counts as dead
    step: Mapped[int] = mapped_column(Integer, default=0)
    steps: Mapped[int | None] = mapped_column(Integer, default=None)
    loss: Mapped[float | None] = mapped_column(Float, default=None)
    step_seconds: Mapped[float | None] = mapped_column(Float, default=None)
    version: Mapped[str | None] = mapped_column(String(128), default=None)  # published: concept@number
    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float, default=None)
    finished_at: Mapped[float | None] = mapped_column(Float, index=True, default=None)
    error_code: Mapped[str | None] = mapped_column(String(64), default=None)
    error_message: Mapped[str | None] = mapped_column(String(SENTENCE), default=None)
    error_param: Mapped[str | None] = mapped_column(String(64), default=None)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), default=None)
    body_sha256: Mapped[str | None] = mapped_column(String(64), default=None)  # of the request with that key
    webhook_url: Mapped[str | None] = mapped_column(String(2000), default=None)


class TrainingEvent(Base):
    """One thing that happened to a training, written in one transaction with the change that it reports."""

    __tablename__ = "training_events"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    training: Mapped[str] = mapped_column(String(64), index=True)  # its id
    place: Mapped[int] = mapped_column(
        Integer
    )  # among the training's events; tells nothing of other tenants'
    created_at: Mapped[float] = mapped_column(Float)
    level: Mapped[str] = mapped_column(String(8))  # info, warn or error
    kind: Mapped[str] = mapped_column(String(8))  # message or metrics
    message: Mapped[str] = mapped_column(String(SENTENCE))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
