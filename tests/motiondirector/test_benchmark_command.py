"""`motiondirector benchmark`: miniatures of the paper's sets, from their own folders to one table."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

import training.runs.local
from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import appearances
from evaluation.paper_sets import ucf_sports
from infra.errors import ConceptError, StorageDenied, StorageFull, Unavailable, UserError
from models.adapters.file import read_adapter
from models.foundations.base import Bucket
from motiondirector.judging.benchmark import Benchmark
from motiondirector.progress import Bars

ROOT = Path(__file__).parents[2]
TINY = ("--foundation", "tiny-random:unet3d", "--size", "4x32x32", "--steps", "1", "--train-steps", "1",
        "--setting", "rank=2", "--device", "cpu", "--batch", "8")  # fmt: skip


def write_avi(path, frames):
    """A video as UCF's archive has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def ucf(tmp_path):
    root = tmp_path / "data" / "ucf_sports_actions" / "ucf action"
    for action, motion in (("Diving-Side", "orbit"), ("Walk-Front", "zigzag")):
        for number, scene in enumerate(appearances(2, 5)):
            frames = render_clip(scene, NOVEL[motion], 8, 64, number)
            write_avi(root / action / f"{number + 1:03d}" / "clip.avi", frames)
    short = render_clip(appearances(1, 5)[0], NOVEL["orbit"], 2, 64)
    write_avi(root / "Walk-Front" / "003" / "short.avi", short)
    return tmp_path / "data"


@pytest.fixture
def loveu(tmp_path):
    root = tmp_path / "loveu-tgve-2023"
    (root / "DAVIS_480p/480p_videos").mkdir(parents=True)
    shutil.copy(ROOT / "assets/clips/fox_running.mp4", root / "DAVIS_480p/480p_videos/fox-running.mp4")
    with (root / "LOVEU-TGVE-2023_Dataset.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Video name", "Our GT caption", "Style Change Caption", "Object Change Caption",
             "Background Change Caption", "Multiple Changes Caption"]
        )  # fmt: skip
        writer.writerow(["DAVIS Videos:"])
        writer.writerow(
            [
                "fox-running",
                "a fox runs",
                "a fox runs, cartoon",
                "a cat runs",
                f"a fox on Mars {'beside a wide path ' * 30}in a green forest",
                "a cat on Mars",
            ]
        )
        writer.writerow(
            ["bus", "a bus drives", "a bus, cartoon", "a tank drives", "a bus on Mars", "a tank on Mars"]
        )
    return root


@pytest.fixture
def trainings(monkeypatch):
    done = []
    real = training.runs.local.train_local

    def remember(foundation, concept, clips, config, **more):
        done.append((concept, config.method))
        return real(foundation, concept, clips, config, **more)

    monkeypatch.setattr(training.runs.local, "train_local", remember)
    return done


def test_ucf_sports_from_its_folders_to_one_table_and_nothing_twice(run, ucf, trainings, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "p.csv").write_text(
        "prompt,concept\na panda dives,Diving-Side\na robot dives,Diving-Side\na panda walks,Walk-Front\n"
    )
    command = ("benchmark", "ucf-sports", "--data", ucf, "--out", out, "--prompts", tmp_path / "p.csv",
               "--against", "base,full", *TINY)  # fmt: skip
    code, shown, err = run(*command)
    assert code == 0, err
    assert trainings == [
        (name, m) for name in ("ucf-diving-side", "ucf-walk-front") for m in ("dual", "full")
    ]
    told = json.loads((out / "report.json").read_text())
    assert told["prompts"] == 3
    assert [(c["title"], c["clips"], c["prompts"]) for c in told["concepts"]] == [
        ("Diving-Side", 2, 2),
        ("Walk-Front", 2, 1),
    ]
    assert list(told["contenders"]) == ["ours", "base", "full"]
    for score in told["metrics"]["motion_fidelity"]["scores"].values():
        assert score["count"] <= 3
    assert any("short.avi was left out" in note for note in told["notes"])
    assert any("Lifting is missing" in note for note in told["notes"])
    assert "short.avi was left out" in err
    assert "UCF Sports Action, 2 of 2 concepts" in shown
    page = (out / "index.html").read_text()
    for name in ("ucf-diving-side", "ucf-walk-front"):
        assert f'href="concepts/{name}/index.html"' in page
        assert (out / "concepts" / name / "index.html").is_file()
        assert read_adapter(out / "concepts" / name / "adapter").concept == name

    (out / "concepts/ucf-walk-front/report.json").unlink()  # as if it had been killed in the second concept
    before = (out / "concepts/ucf-diving-side/report.json").stat().st_mtime_ns
    assert run(*command)[0] == 0
    assert len(trainings) == 4
    assert (out / "concepts/ucf-diving-side/report.json").stat().st_mtime_ns == before
    assert json.loads((out / "report.json").read_text())["metrics"] == told["metrics"]


def test_loveu_tgve_with_a_real_clip(run, loveu, tmp_path):
    code, out, err = run(
        "benchmark",
        "loveu-tgve",
        "--data",
        loveu,
        "--out",
        tmp_path / "out",
        "--against",
        "base",
        "--json",
        *TINY,
    )
    assert code == 0, err
    told = json.loads(out)
    assert [c["title"] for c in told["concepts"]] == ["fox-running"]
    assert told["prompts"] == 4
    assert "motion_fidelity" in told["metrics"]
    assert "appearance_accuracy" not in told["metrics"]
    assert any("bus.mp4 is missing" in note for note in told["notes"])
    (unread,) = [note for note in told["notes"] if "ignored:" in note]
    assert unread.startswith("fox-running: ")
    assert unread.endswith("in a green forest'")


def refused(run, *arguments):
    code, out, err = run("benchmark", *arguments)
    assert (code, out) == (2, "")
    return next(line for line in err.splitlines() if line.startswith("error: "))


def test_what_is_not_there_or_wrong_is_one_sentence(run, ucf, loveu, tmp_path):
    assert "Diving-Side/001" in refused(run, "ucf-sports", "--data", tmp_path / "none")
    assert "LOVEU-TGVE-2023_Dataset.csv" in refused(run, "loveu-tgve", "--data", tmp_path / "none")
    assert "no such concept" in refused(run, "ucf-sports", "--data", ucf, "--only", "Dancing")
    assert "not NAME=VALUE" in refused(run, "ucf-sports", "--data", ucf, "--setting", "rank")
    out = ("--out", tmp_path / "out")
    assert "unknown training setting 'rnk'" in refused(
        run, "ucf-sports", "--data", ucf, *out, *TINY, "--setting", "rnk=2"
    )
    only = ("--only", "Walk-Front", "--fps", "1")
    assert "no concept of" in refused(run, "ucf-sports", "--data", ucf, *out, *TINY, *only)


def benchmark_of(paper_set, out):
    """A benchmark of clips of 4x32x32, whose model is not there: to be run up to where it is needed."""
    chosen = SimpleNamespace(bucket=Bucket(4, 32, 32))
    judge = SimpleNamespace(
        generation=SimpleNamespace(resolved=lambda foundation: chosen),
        foundation=SimpleNamespace(recommended=None),
        metrics=lambda sprites: (),
    )
    return Benchmark(paper_set, judge, (), {}, out, None)


def test_clips_that_are_gone_and_captions_that_were_corrected_are_not_used(ucf, tmp_path):
    concept = ucf_sports(ucf, only=["Diving-Side"]).concepts[0]
    run = benchmark_of(None, tmp_path / "out")
    before = run.ingested(concept, Bars())
    assert len(before) == 2
    assert {clip.caption for clip in before} == {concept.caption}
    first = replace(concept, sources=concept.sources[:1], caption="a diver dives")
    now = run.ingested(first, Bars())
    assert [(clip.source_uri, clip.caption) for clip in now] == [(str(concept.sources[0]), "a diver dives")]
    assert now[0].clip_id in {clip.clip_id for clip in before}
    write_avi(concept.sources[0], render_clip(appearances(1, 9)[0], NOVEL["orbit"], 8, 64, 1))  # a better one
    assert [clip.clip_id in {c.clip_id for c in before} for clip in run.ingested(first, Bars())] == [False]


@pytest.mark.parametrize("fault", [StorageFull, StorageDenied, Unavailable])
def test_what_the_machine_refuses_ends_the_run(ucf, tmp_path, monkeypatch, fault):
    tried = []

    def fails(self, concept, store, bars):
        tried.append(concept.title)
        raise fault("refused")

    monkeypatch.setattr(Benchmark, "one", fails)
    with pytest.raises(fault):
        benchmark_of(ucf_sports(ucf), tmp_path / "out").run(Bars())
    assert tried == ["Diving-Side"]


def test_a_concept_with_clips_that_cannot_be_used_is_left_out_and_the_next_one_tried(
    ucf, tmp_path, monkeypatch
):
    def fails(self, concept, store, bars):
        raise ConceptError(f"not {concept.title}", code="diverged")

    monkeypatch.setattr(Benchmark, "one", fails)
    run = benchmark_of(ucf_sports(ucf), tmp_path / "out")
    with pytest.raises(UserError, match="no concept of"):
        run.run(Bars())
    assert run.problems[-2:] == [
        "Diving-Side was left out: not Diving-Side",
        "Walk-Front was left out: not Walk-Front",
    ]


def test_wrong_weights_and_a_precision_that_cannot_train_are_said_before_anything_is_read(run, ucf, tmp_path):
    given = ("ucf-sports", "--data", ucf, "--out", tmp_path / "out", *TINY)
    assert "CLIP weights" in refused(run, *given, "--clip", tmp_path / "none")
    assert "--dtype fp16: adapters are trained here" in refused(run, *given, "--dtype", "float16")
    assert not (tmp_path / "out").exists()


def test_help_shows_the_layouts(run):
    _, out, _ = run("benchmark", "ucf-sports", "--help")
    assert "Diving-Side/001" in out
    _, out, _ = run("benchmark", "loveu-tgve", "--help")
    assert "480p_videos" in out
    assert "532" in out
