"""Runs demos as child processes, and finds processes that they leave behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from motiondirector.demo.stage import reset_sigint

ROOT = Path(__file__).parents[2]


def start(out, *options, command="demo"):
    """Start a demo as a child process. A mark in its environment identifies all its descendants."""
    command = [sys.executable, "-m", "motiondirector", command, "--out", str(out)]
    tiny = ["--foundation", "tiny-random:unet3d"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEMO_MARK": str(out)}
    return subprocess.Popen(
        [*command, *tiny, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=reset_sigint,  # these tests may run under nohup
    )


def relatives(out):
    """Every running process with the demo's mark, also if its parents have ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_MARK") == str(out) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def none_left(out, patience=60):
    deadline = time.monotonic() + patience
    while relatives(out) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [" ".join(process.cmdline())[:120] for process in relatives(out)]
