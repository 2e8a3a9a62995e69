"""The one error a user sees.

Whatever a user (or a request) can get wrong raises `UserError` with one sentence: what was given, what was
expected, what to do. The front door prints it and exits with 2; the service answers it with `status`.
Programming mistakes stay `AssertionError` / `TypeError` and keep their traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input, explained.

    Args:
        message: one clear sentence: what was given, what was expected, what to do.
        status: the HTTP status a service answers with (4xx, or 503 for a dependency that is down).
        code: a short machine-readable name ("concept_not_found"), stable across releases.
    """

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
