"""Maps error classes to HTTP statuses for the server, and back for clients."""

from __future__ import annotations

from infra.errors import (
    Conflict,
    DamagedData,
    DeadlinePassed,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfMemory,
    StorageFull,
    SystemFailure,
    Throttled,
    Unauthorized,
    Unavailable,
    UserError,
)

STATUSES: dict[type, int] = {  # a class without an entry has that of its nearest base class
    UserError: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    InvalidInput: 422,
    Throttled: 429,
    SystemFailure: 500,
    DamagedData: 502,
    Unavailable: 503,
    DeadlinePassed: 504,
    OutOfMemory: 507,
    StorageFull: 507,
}
CLASSES: dict[int, type[UserError]] = {status: kind for kind, status in STATUSES.items()}


def status_of(error: UserError) -> int:
    """The HTTP status of an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def class_of(status: int) -> type[UserError]:
    """The class that a client raises for this status."""
    return CLASSES.get(status, UserError if status < 500 else SystemFailure)
