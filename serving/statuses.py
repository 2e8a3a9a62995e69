"""The HTTP status of each class of errors: for the server, and back again for clients."""

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

STATUSES: dict[type, int] = {  # a class without an entry has that of the next one it is derived from
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
    """What the service answers it with."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def class_of(status: int) -> type[UserError]:
    """What a client raises for an answer with this status."""
    return CLASSES.get(status, UserError if status < 500 else SystemFailure)
