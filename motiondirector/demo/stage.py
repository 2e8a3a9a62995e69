"""What a demo stands on: commands run as a user would type them, stages with their times, nothing left running."""

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

ROOT = Path(__file__).resolve().parents[2]


class Stage:
    """Mixed into a demo, which is a dataclass with these fields."""

    foundation: str | None
    console: Console
    stages: list[dict[str, Any]]
    commands: list[str]

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage and say that it is on."""
        self.console.rule(f"[bold]{name}", align="left", style="dim")
        timing: dict[str, Any] = {"name": name}
        began = time.monotonic()
        yield timing
        timing["seconds"] = round(time.monotonic() - began, 2)
        self.stages.append(timing)

    def facts(self, *packages: str) -> dict[str, Any]:
        """What every report says: on what it ran, what was done, and how long each stage took."""
        return {
            "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
            "versions": {name: version(name) for name in packages},
            "stages": self.stages,
            "commands": self.commands,
        }

    def model(self) -> list[str]:
        """The option that names the foundation; nothing for the embedded one."""
        return ["--foundation", self.foundation] if self.foundation else []

    def say(self, *arguments: str) -> list[str]:
        """Show the command as a user would type it, and return it as this Python runs it."""
        shown = shlex.join(["motiondirector", *arguments]).replace(f"{ROOT}/", "")
        self.commands.append(shown)
        self.console.print(f"$ {escape(shown)}", style="cyan", highlight=False, soft_wrap=True)
        return [sys.executable, "-m", "motiondirector", *arguments]

    def command(self, *arguments: str, quiet: bool = False) -> str:
        """Run a command to its end; its standard output when `quiet`. UserError when it fails."""
        command = self.say(*arguments)
        # In a session of its own a child gets Ctrl-C from here alone, once, and can end in its own way.
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if quiet else None,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
        try:
            told, _ = child.communicate()
        except BaseException:
            end(child)
            raise
        if child.returncode:
            raise UserError(
                f"`motiondirector {arguments[0]}` ended with {child.returncode}; its reason stands above."
            )
        return told or ""

    @contextmanager
    def beside(self, log: Path | None, *arguments: str) -> Iterator[subprocess.Popen[Any]]:
        """A command that runs beside the block, which it does not outlive; what it says goes to a file, or is shown here."""
        command = self.say(*arguments)
        with log.open("w") if log else nullcontext() as file:
            child = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True, preexec_fn=heed_interrupts
            )
            try:
                yield child
            finally:
                end(child)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: through every `finally`."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare(out: Path, *folders: str) -> None:
    """An empty folder for this run, with these in it. Only what a former demo made is removed. Raises UserError."""
    try:
        if out.exists() and any(out.iterdir()) and not (out / ".demo").exists():
            raise UserError(f"{out} holds something that no demo made; give another --out.")
        shutil.rmtree(out, ignore_errors=True)
        for name in ("logs", "clips", *folders):
            (out / name).mkdir(parents=True)
        (out / ".demo").touch()
    except OSError as error:
        raise UserError(f"--out {out} cannot be a demo's folder ({error.strerror}); give another.") from None


def heed_interrupts() -> None:
    """In a child before it starts: under nohup or a shell's `&` SIGINT is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(child: subprocess.Popen[Any], patience: float = 45.0) -> None:
    """Ask a child to stop as Ctrl-C would; after `patience` seconds, insist, with all it started."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
