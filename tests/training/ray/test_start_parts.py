"""What goes on before the first step is said, with the seconds it took."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from motiondirector.commands.train import Screen
from training.reporting.board import Parts
from training.runs.job import part


def test_each_part_is_a_line_with_its_seconds_when_it_is_done():
    console = Console(record=True, width=100)
    with Screen(console, "orbit", "runs/orbit") as screen:
        with part(screen, "starting Ray"), part(screen, "loading the foundation"):
            screen.prepared(1, 2)
        screen.passed("importing", 3.04)  # a worker's, that was not told to begin
        with pytest.raises(ValueError, match="broken"), part(screen, "preparing latents"):
            raise ValueError("broken")
        screen.started(0, 2, 1, "cpu")
    said = console.export_text()
    assert "orbit: loading the foundation, 0.0 s" in said
    assert "orbit: starting Ray, 0.0 s" in said
    assert "orbit: importing, 3.0 s" in said
    assert "orbit: preparing latents, " not in said
    assert "orbit: 2 steps, 1 worker on cpu" in said


def test_the_first_worker_tells_the_board_what_it_begins_and_what_it_has_done():
    told = []
    parts = Parts(SimpleNamespace(push=SimpleNamespace(remote=told.append)))
    parts.arrived("starting")
    with parts.doing("importing"):
        assert told[-1] == {"kind": "stage", "text": "importing"}
    with pytest.raises(ValueError, match="broken"), parts.doing("loading"):
        raise ValueError("broken")
    assert [(event["kind"], event["text"]) for event in told] == [
        ("part", "starting"),
        ("stage", "importing"),
        ("part", "importing"),
        ("stage", "loading"),
    ]
    assert told[0]["seconds"] is None
    assert told[2]["seconds"] >= 0
    nobody = Parts(None)
    nobody.arrived("another worker")
    with nobody.doing("another worker's"):
        pass
