"""Error classes, one per kind of failure, so that callers catch the class.

Every mistake of a user or a request raises a `UserError` with one sentence: what was given, what was
expected, what to do. The command line prints it and exits (codes: `motiondirector.exits`); the service
answers with an HTTP status (`serving.http.statuses`). Programming errors stay `AssertionError` / `TypeError`
and keep their traceback.
"""

from __future__ import annotations

import copy
import copyreg
from typing import Any, Self


class UserError(Exception):
    """Bad input, explained. Raised directly if no subclass fits, such as for mutually exclusive options.

    Args:
        message: one clear sentence: what was given, what was expected, what to do.
        code: a short machine-readable name ("concept_not_found"), stable across releases; None: the class's.
    """

    default_code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle without calling `__init__`, whose arguments differ in some subclasses."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def reworded(self, message: str) -> Self:
        """The same error with another message."""
        error = copy.copy(self)
        error.message, error.args = message, (message,)
        return error


# --- errors of the caller -------------------------------------------------------------------------------


class InvalidInput(UserError):
    """A value, a file or a setting is invalid."""

    default_code = "invalid_value"


class ConceptError(InvalidInput):
    """One concept cannot be trained: its clips are unusable or its loss diverged. Others are unaffected."""


class NotFound(UserError):
    """The named item does not exist."""

    default_code = "not_found"


class Conflict(UserError):
    """The request conflicts with existing data or with the current state."""


class Unauthorized(UserError):
    """The request has no valid API key."""

    default_code = "invalid_api_key"


class Forbidden(UserError):
    """The caller lacks permission."""

    default_code = "access_denied"


class Throttled(UserError):
    """A limit on rate or concurrency was exceeded.

    Args:
        retry_after: seconds after which a retry may succeed.
    """

    def __init__(self, message: str, *, code: str | None = None, retry_after: float = 5.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


# --- errors of the system -------------------------------------------------------------------------------


class SystemFailure(UserError):
    """A fault of the system, not of the request: another request would not help."""

    default_code = "internal_error"


class Unavailable(SystemFailure):
    """A required component is unreachable or busy; a retry may succeed later."""

    default_code = "unavailable"


class DamagedData(SystemFailure):
    """Stored data differs from what was written."""

    default_code = "object_damaged"


class DeadlinePassed(SystemFailure):
    """The work did not finish before the request's deadline."""

    default_code = "deadline_passed"


class OutOfMemory(SystemFailure):
    """A device has too little memory for the work."""

    default_code = "out_of_memory"


# --- errors of a storage --------------------------------------------------------------------------------


class StorageError(UserError):
    """A storage cannot be used, because of its configuration or its current state."""


class StorageAway(StorageError, Unavailable):
    """The storage does not answer; it may later."""

    default_code = "storage_unreachable"


class StorageDenied(StorageError, Forbidden):
    """The storage denies access: wrong credentials or missing permissions."""


class StorageFull(StorageError, SystemFailure):
    """The storage is full."""

    default_code = "disk_full"
