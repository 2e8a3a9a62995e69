"""What goes wrong, as classes: each says what kind of failure it is, so that callers catch the class.

Whatever a user (or a request) can get wrong raises a `UserError` with one sentence: what was given, what was
expected, what to do. The front door prints it and exits (`motiondirector.exits` has the codes); the service answers it
with an HTTP status (`serving.statuses` has them). Programming mistakes stay `AssertionError` / `TypeError` and keep
their traceback.
"""

from __future__ import annotations

import copy
import copyreg
from typing import Any, Self


class UserError(Exception):
    """Bad input, explained. Raised itself where no subclass fits, such as for options that exclude each other.

    Args:
        message: one clear sentence: what was given, what was expected, what to do.
        code: a short machine-readable name ("concept_not_found"), stable across releases; absent: the class's.
    """

    default_code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without calling `__init__`, which takes other arguments in some subclasses."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def reworded(self, message: str) -> Self:
        """The same error with another sentence, which says more."""
        error = copy.copy(self)
        error.message, error.args = message, (message,)
        return error


# --- of what was asked ---------------------------------------------------------------------------------------------


class InvalidInput(UserError):
    """A value, a file or a setting was read and cannot be used."""

    default_code = "invalid_value"


class ConceptError(InvalidInput):
    """One concept cannot be trained: its clips cannot be used, or its loss diverged. Other concepts can."""


class NotFound(UserError):
    """What was named does not exist."""

    default_code = "not_found"


class Conflict(UserError):
    """It contradicts what exists already, or is impossible in the present state."""


class Unauthorized(UserError):
    """No valid key came with the request."""

    default_code = "invalid_api_key"


class Forbidden(UserError):
    """Whoever asks may not do that."""

    default_code = "access_denied"


class Throttled(UserError):
    """Too much at once.

    Args:
        retry_after: seconds after which it may work.
    """

    def __init__(self, message: str, *, code: str | None = None, retry_after: float = 5.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


# --- of the system that was asked ----------------------------------------------------------------------------------


class SystemFailure(UserError):
    """The fault of the system, not of what was asked: asking for something else would not help."""

    default_code = "internal_error"


class Unavailable(SystemFailure):
    """Something that is needed is away or busy; the same may succeed later."""

    default_code = "unavailable"


class DamagedData(SystemFailure):
    """What is stored is not what was written."""

    default_code = "object_damaged"


class DeadlinePassed(SystemFailure):
    """It was not done by the time that the request set."""

    default_code = "deadline_passed"


class OutOfMemory(SystemFailure):
    """A device's memory does not hold what was to run on it."""

    default_code = "out_of_memory"


# --- of a storage --------------------------------------------------------------------------------------------------


class StorageError(UserError):
    """A storage cannot be used, as it is set up or as it is now."""


class StorageAway(StorageError, Unavailable):
    """It does not answer; it may later."""

    default_code = "storage_unreachable"


class StorageDenied(StorageError, Forbidden):
    """It does not let this process in: credentials, rights or permissions."""


class StorageFull(StorageError, SystemFailure):
    """It takes no more until somebody makes room."""

    default_code = "disk_full"
