"""Keeps lanes of the service running beside a server: processes of lower priority, started again if they die."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

log = logging.getLogger(__name__)
LOOK_S = 1.0  # seconds between looks at the processes
PAUSES = (1.0, 5.0, 30.0)  # seconds before a lane that died is started again; the last for every further time
STEADY_S = 300.0  # a lane that lived longer begins with the first pause again
STOP_S = 60.0  # seconds to write checkpoints


@contextmanager
def running_lanes(
    count: int, registry: str, foundation: str | None = None, device: str | None = None
) -> Iterator[None]:
    """This many lanes run during the block; at its end they checkpoint and give back what they hold."""
    command = [sys.executable, "-m", "motiondirector.service.lane", "--registry", registry, "--tied"]
    command += [] if foundation is None else ["--foundation", foundation]
    command += [] if device is None else ["--device", device]
    keepers = [Keeper(command) for _ in range(count)]
    try:
        for keeper in keepers:
            keeper.start()
        yield
    finally:
        for keeper in keepers:
            keeper.over.set()
        for keeper in keepers:
            keeper.join()


class Keeper(threading.Thread):
    """Runs a command, again whenever it ends, until `over` is set. The command ends with its standard input."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(name="lane-keeper", daemon=True)
        self.command, self.over = list(command), threading.Event()

    def run(self) -> None:
        deaths = 0
        while not self.over.is_set():
            began = time.monotonic()
            code = self._once()
            if self.over.is_set():
                return
            deaths = 1 if time.monotonic() - began > STEADY_S else deaths + 1
            pause = PAUSES[min(deaths, len(PAUSES)) - 1]
            log.warning("a training lane ended with code %s; another starts in %g s", code, pause)
            self.over.wait(pause)

    def _once(self) -> int:
        """Run the command until it ends or is to stop. Returns its exit code."""
        child = subprocess.Popen(self.command, stdin=subprocess.PIPE, start_new_session=True)
        assert child.stdin is not None
        while child.poll() is None and not self.over.wait(LOOK_S):
            pass
        child.stdin.close()
        try:
            return child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
