"""Common parts of the demos: run commands as a user would type them, time stages, leave nothing running."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from infra.errors import UserError
from infra.paths import ROOT


class Stage:
    """Mixin for a demo, which is a dataclass with these fields."""

    foundation: str | None
    console: Console
    stages: list[dict[str, Any]]
    commands: list[str]

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Announce and time a stage."""
        self.console.rule(f"[bold]{name}", align="left", style="dim")
        timing: dict[str, Any] = {"name": name}
        began = time.monotonic()
        yield timing
        timing["seconds"] = round(time.monotonic() - began, 2)
        self.stages.append(timing)

    def facts(self, *packages: str) -> dict[str, Any]:
        """The facts of every report: hardware, versions, commands, and the time of each stage."""
        return {
            "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
            "versions": {name: version(name) for name in packages},
            "stages": self.stages,
            "commands": self.commands,
        }

    def model(self) -> list[str]:
        """The command-line option for the foundation; empty for the embedded one."""
        return ["--foundation", self.foundation] if self.foundation else []

    def say(self, *arguments: str) -> list[str]:
        """Show a command as a user would type it, and return it as arguments for this Python."""
        shown = shlex.join(["motiondirector", *arguments]).replace(f"{ROOT}/", "")
        self.commands.append(shown)
        self.console.print(f"$ {escape(shown)}", style="cyan", highlight=False, soft_wrap=True)
        return [sys.executable, "-m", "motiondirector", *arguments]

    def command(self, *arguments: str, quiet: bool = False) -> str:
        """Run a command to its end. Returns its standard output if `quiet`. Raises UserError if it fails."""
        command = self.say(*arguments)
        # In a new session, the child gets Ctrl-C only from here, once, and can shut down in order.
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if quiet else None,
            text=True,
            start_new_session=True,
            preexec_fn=reset_sigint,
        )
        try:
            output, _ = child.communicate()
        except BaseException:
            end(child)
            raise
        if child.returncode:
            raise UserError(
                f"`motiondirector {arguments[0]}` ended with code {child.returncode}; the reason is above."
            )
        return output or ""

    @contextmanager
    def beside(self, log: Path | None, *arguments: str) -> Iterator[subprocess.Popen[Any]]:
        """Run a command during the block, then end it. Its output goes to `log` or to the terminal."""
        command = self.say(*arguments)
        with log.open("w") if log else nullcontext() as file:
            child = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True, preexec_fn=reset_sigint
            )
            try:
                yield child
            finally:
                end(child)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM end the block like Ctrl-C, so that every `finally` runs."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare(out: Path, *folders: str) -> None:
    """Create an empty folder for this run with these subfolders. Raises UserError.

    Removes an existing folder only if a previous demo made it.
    """
    try:
        if out.exists() and any(out.iterdir()) and not (out / ".demo").exists():
            raise UserError(f"{out} contains files that no demo created; give another --out.")
        shutil.rmtree(out, ignore_errors=True)
        for name in ("logs", "clips", *folders):
            (out / name).mkdir(parents=True)
        (out / ".demo").touch()
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be used as the demo's folder ({error.strerror}); give another folder."
        ) from None


def reset_sigint() -> None:
    """Reset SIGINT in a child before it starts: under nohup or `&` it would inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(child: subprocess.Popen[Any], patience: float = 45.0) -> None:
    """Send SIGINT to a child; after `patience` seconds kill its whole process group."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
