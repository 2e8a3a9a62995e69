"""The exit codes of the program: the one place that knows."""

from __future__ import annotations

from infra.errors import UserError

NOT_DONE = 1  # the command has said what was not done, or is not as it should be
EXIT_CODES: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130}


def exit_code_of(error: BaseException) -> int:
    """What the program ends with when a command raises this."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
