"""The demo: all its stages on a tiny model, and nothing left running when it is interrupted."""

import json
import signal
import time
from pathlib import Path

import pytest
from demos import none_left, relatives, start
from rich.console import Console

from datasets.video.decode import decode
from infra.errors import UserError
from infra.registry import open_registry
from motiondirector.commands.demo import conclude
from motiondirector.demo.cast import chosen
from motiondirector.demo.stage import prepare, terminated_as_interrupted

QUICK = ("--steps", "2", "--concept", "orbit", "--no-uses")  # its trainings are the test's minutes


@pytest.mark.cluster
@pytest.mark.slow
def test_the_whole_demo_on_a_tiny_model(tmp_path):
    out = tmp_path / "demo"
    child = start(out, *QUICK, "--coupled")
    told, _ = child.communicate(timeout=560)
    assert child.returncode == 0, told[-3000:]
    assert none_left(out) == []
    report = json.loads((out / "report.json").read_text())
    assert [video["concept"] for video in report["videos"]] == ["orbit"] * 3
    for video in report["videos"]:
        assert decode(out / video["file"]).frames_FHWC.shape == (4, 32, 32, 3)
        assert all((out / file).is_file() for file in video["beside"].values())
        assert set(video["beside"]) == {"base", "coupled"}
        kept = open_registry(out / "registry").resolve(f"{video['concept']}@{video['version']}")
        assert video["adapter_sha256"] == kept.adapter_sha256
    assert all(stage["seconds"] >= 0 for stage in report["stages"])
    first = report["first_picture"]
    assert first["file"] == report["videos"][0]["file"]
    assert 0 < first["seconds"] < sum(stage["seconds"] for stage in report["stages"])
    assert f"{first['seconds']:.0f} s after the start: {out}/{first['file']}" in told
    page = (out / "index.html").read_text()
    assert all(video["prompt"] in page for video in report["videos"])
    assert sum(clip["accepted"] for clip in report["ingested"]) == 1 + 4  # the motion's, and the real ones


@pytest.mark.cluster
@pytest.mark.slow
def test_interrupted_while_it_trains_it_leaves_no_process(tmp_path):
    out = tmp_path / "demo"
    child = start(out, *QUICK, "--steps", "100000")
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("$ motiondirector train"):
            break
    deadline = time.monotonic() + 240
    while not any("RayTrainWorker" in " ".join(p.cmdline()) for p in relatives(out)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    try:
        child.communicate(timeout=120)
        assert child.returncode != 0
        assert none_left(out) == []
    finally:
        for process in relatives(out):  # so that a failure here does not burden the tests that follow
            process.kill()


def test_sigterm_interrupts_as_ctrl_c_does_and_only_inside():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_concepts_are_chosen_by_name():
    assert [concept.name for concept in chosen(None)] == ["orbit", "zigzag"]
    assert [concept.name for concept in chosen(["zigzag"])] == ["zigzag"]
    with pytest.raises(UserError, match="no concept 'wave'; choose from orbit, zigzag"):
        chosen(["wave"])


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no demo created"):
        prepare(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        UserError, match=r"cannot be used as the demo's folder .Not a directory.; give another"
    ):
        prepare(tmp_path / "out")
    with pytest.raises(UserError, match="cannot be used as the demo's folder"):
        prepare(tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "a file"


def test_brackets_of_a_folders_name_are_shown(capsys):
    conclude(Console(width=200), "3 videos", {"stages": []}, Path("a[b]c[/i]"), "motiondirector serve x[y]")
    shown = capsys.readouterr().out
    assert "Open a[b]c[/i]/index.html (and a[b]c[/i]/report.json)." in shown
    assert "  motiondirector serve x[y]" in shown
