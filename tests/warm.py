"""Runs scripts in processes forked from one that has already imported torch.

    process = warm_processes.start([str(script), "--help"], cwd=ROOT, env={**os.environ, "LOCAL_RANK": "1"})
    process.wait()                                   # its exit code
    process.output                                   # its standard output;  process.errors: its standard error

A script runs as with `python SCRIPT ARGUMENTS`, except that third-party libraries (`import_libraries`) are already imported.
No module of this project is. Starting Python with these libraries takes some seven seconds of a core.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Warm:
    """A forked process that runs a script."""

    pid: int
    server: subprocess.Popen[str]
    folder: Path
    code: int | None = None

    def wait(self) -> int:
        """Wait until the process ends. Returns its exit code."""
        if self.code is None:
            self.code = ask(self.server, wait=self.pid)
        return self.code

    def kill(self) -> None:
        """Kill the process, or do nothing if it has ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def output(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def errors(self) -> str:
        return (self.folder / "err").read_text()


class WarmProcesses:
    """Starts forked processes."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.folder = server, folder

    def start(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Warm:
        """Run a script with its arguments. The process does not outlive the server."""
        own = Path(tempfile.mkdtemp(dir=self.folder))
        pid = ask(self.server, command=list(command), cwd=str(cwd), env=dict(env), folder=str(own))
        return Warm(pid, self.server, own)


def ask(server: subprocess.Popen[str], **request: object) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the process that others are forked from has ended; its reason stands above"
    return int(answer)


@contextlib.contextmanager
def warm_processes(folder: Path) -> Iterator[WarmProcesses]:
    """The server, running until the block ends, with this process's current environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"DS_ACCELERATOR": "cpu"}  # DeepSpeed looks for an accelerator when it is imported
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield WarmProcesses(server, folder)
    finally:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.close()
        server.wait()
        server.stdout.close()


# --- the process that others are forked from ------------------------------------------------------------------


def serve() -> None:
    """Answer each line (a JSON request) with a number.

    {"command", "cwd", "env", "folder"} starts a script and returns its pid; {"wait"} returns its exit code.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with answers
    sys.path.remove(str(Path(__file__).parent))
    import_libraries()
    alive = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            alive.discard(request["wait"])
            print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
            continue
        pid = os.fork()
        if not pid:
            run(**request)
        alive.add(pid)
        print(pid, file=answers, flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def import_libraries() -> None:
    """Import the third-party libraries that this project's models and engines use."""
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import torch.distributed  # noqa: F401
    from diffusers import AutoencoderKL, TextToVideoSDPipeline, UNet3DConditionModel, WanPipeline  # noqa: F401
    from transformers import CLIPTextModel, UMT5EncoderModel  # noqa: F401


def run(command: list[str], cwd: str, env: dict[str, str], folder: str) -> None:
    """Run the script in the child, as Python would. Does not return."""
    code = 1
    try:
        for number, name in ((0, "/dev/null"), (1, f"{folder}/out"), (2, f"{folder}/err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        script = os.path.abspath(command[0])
        sys.argv = list(command)
        sys.path[:0] = [os.path.dirname(script), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
