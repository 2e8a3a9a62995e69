"""Runs `motiondirector serve` in a child process, as users do, and finds the processes of its replicas."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]
    registry: str
    data: Path
    output: list[str]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas, among the command's descendants."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.status() != psutil.STATUS_ZOMBIE and f"{deployment}" in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:  # it has ended meanwhile
                continue
        return [child for child in found if "ServeReplica" in " ".join(child.cmdline())]


@contextlib.contextmanager
def served(
    registry: str, data: Path, options: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run the server on a free port. Yields when it listens; stops it with Ctrl-C if it still runs."""
    command = [sys.executable, "-m", "motiondirector", "serve"]
    told = {"--registry": registry, "--data-dir": str(data), "--port": "0", **options}
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})}
    variables["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
    variables.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [*command, *(part for pair in told.items() for part in pair)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout), daemon=True)  # type: ignore[arg-type]
    reader.start()
    try:
        end = time.monotonic() + 600
        while not any("Ctrl-C" in line for line in output):
            assert process.poll() is None, "".join(output)
            assert time.monotonic() < end, "".join(output)
            time.sleep(0.2)
        url = next(word for line in output for word in line.split() if word.startswith("http://"))
        yield Server(url, process, registry, data, output)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(10)
