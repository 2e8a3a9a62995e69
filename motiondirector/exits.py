"""The exit codes of the program, all in one place."""

from __future__ import annotations

from infra.errors import UserError

NOT_DONE = 1  # the command printed what was not done, or what is not as expected
EXIT_CODES: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130}


def exit_code_of(error: BaseException) -> int:
    """The exit code after a command raised this error."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
