"""A demo's service process, and how to wait until it is ready."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from infra.errors import Unavailable, UserError

POLL_S = 0.2


@dataclass
class Server:
    """The service's process, URL and log."""

    url: str
    child: subprocess.Popen[Any]
    log: Path
    _ready: bool = False

    def ready(self) -> bool:
        """Whether /readyz has answered. Raises UserError, with the end of the log, if the server has died."""
        if self.child.poll() is not None:
            raise self._failed("the server has ended")
        if not self._ready:
            with contextlib.suppress(httpx.HTTPError):
                self._ready = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        return self._ready

    def until_ready(self, patience: float = 300.0) -> None:
        """Wait until ready. Raises UserError, with the log's end, if the server dies or takes too long."""
        deadline = time.monotonic() + patience
        while not self.ready():
            if time.monotonic() > deadline:
                raise self._failed("the server did not become ready")
            time.sleep(POLL_S)

    def _failed(self, what: str) -> UserError:
        return Unavailable(f"{what}; the end of its log:\n{self.log.read_text()[-2000:]}")
