"""`motiondirector evaluate`: from a published version to a page, a report, and scores in the registry."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import training.runs.local
from datasets.clip_sets.clips import make_clip, read_clips
from datasets.clip_sets.parquet import Pending, append
from datasets.sprites.captions import canonical
from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import appearances
from infra.registry import open_registry
from infra.storage import open_storage
from infra.storage.objects import put_files
from models.foundations.base import Bucket
from models.load import load_foundation
from motiondirector.batch.validation import Evaluation
from motiondirector.judging.contenders import BASELINES, METHODS, local_config, parse_against
from training.adapters import describe, write_adapters
from training.config import make_config

FOUNDATION = "tiny-random:unet3d"
SETTINGS = {
    "steps": 2,
    "rank": 2,
    "frames": 4,
    "height": 32,
    "width": 32,
    "learning_rate": 0.01,
    "workers": 2,
}
SHORT = ("--steps", "1", "--batch", "8", "--device", "cpu")


def rendered(concept, motion, count=2):
    clips = []
    for number, scene in enumerate(appearances(count, 5)):
        frames = render_clip(scene, NOVEL[motion], 4, 32, number)
        clips.append(
            make_clip(
                concept=concept, caption=canonical(scene, NOVEL[motion]), frames_FHWC=frames, fps=8,
                source_uri=f"{number}.mp4", source_sha256=f"{concept}{number}",
            )
        )  # fmt: skip
    return clips


def put(uri, clips, spool):
    storage = open_storage(spool)
    append(open_storage(uri), [Pending.spooled(clip, storage) for clip in clips], storage)


@pytest.fixture(scope="module")
def foundation():
    return load_foundation(FOUNDATION, device="cpu")


@pytest.fixture(scope="module")
def trained(foundation, tmp_path_factory):
    """(folder of an adapter as `train` leaves it, its metadata, uri of its clips), made once."""
    from datasets.clip_sets.latents import LatentCache, prepare

    place = tmp_path_factory.mktemp("trained")
    put(place / "clips", rendered("orbit", "orbit"), place / "spool")
    clips = read_clips(place / "clips", "orbit")  # in the order in which a training sees them
    config = make_config(SETTINGS)
    local = local_config(SETTINGS, "dual", foundation)
    cached = prepare(clips, foundation, Bucket(4, 32, 32), LatentCache(open_storage(place / "clips")))
    metadata = describe(config, "orbit", clips)
    tensors = training.runs.local.train_local(foundation, "orbit", cached, local)
    write_adapters(place / "adapter", foundation, tensors, metadata)
    said = {
        "concept": "orbit",
        "data": str(place / "clips"),
        "foundation": FOUNDATION,
        **config.model_dump(mode="json"),
    }
    (place / "adapter" / "config.yaml").write_text(yaml.safe_dump(said))
    return place / "adapter", metadata, place / "clips"


@pytest.fixture
def published(trained, tmp_path, monkeypatch):
    """The registry with orbit@1, in MOTIONDIRECTOR_REGISTRY."""
    folder, metadata, _ = trained
    monkeypatch.setenv("MOTIONDIRECTOR_REGISTRY", str(tmp_path / "registry"))
    registry = open_registry(tmp_path / "registry")
    registry.publish("orbit", folder, metadata=metadata, metrics={"loss": 1.0})
    return registry


@pytest.fixture
def trainings(monkeypatch):
    """The methods trained meanwhile."""
    methods = []
    real = training.runs.local.train_local

    def remember(foundation, concept, clips, config, **more):
        methods.append(config.method)
        return real(foundation, concept, clips, config, **more)

    monkeypatch.setattr(training.runs.local, "train_local", remember)
    return methods


def test_every_contender_is_measured_published_and_shown_and_nothing_is_made_twice(
    run, published, trainings, tmp_path
):
    out = tmp_path / "out"
    command = ("evaluate", "--concept", "orbit", "--against", "base,coupled,no-debias,full", "--seeds", "1",
               "--out", out, *SHORT)  # fmt: skip
    code, shown, err = run(*command)
    assert code == 0, err
    assert trainings == ["coupled", "no-debias", "full"]
    told = json.loads((out / "report.json").read_text())
    assert list(told["contenders"]) == ["ours", "base", "coupled", "no-debias", "full"]
    assert told["contenders"]["ours"]["title"] == "orbit@1"
    assert len(told["prompts"]) == 8
    assert not any("orbit" in prompt for prompt in told["prompts"])
    assert len({one["adapters_sha256"] for one in told["contenders"].values()}) == 5
    assert all("reads only the first" in note for note in told["notes"])  # nothing about the data
    assert "motion fidelity ↑" in shown
    assert "published with orbit@1" in shown
    page = (out / "index.html").read_text()
    assert len(told["open_prompts"]) == 6, "the classes that no caption names"
    assert told["metrics"]["open_leakage"]["scores"]["base"]["mean"] in (0.0, None)
    assert page.count('class="clip"') == 2 + 8 * 5 + 6 * 5

    version = published.resolve("orbit")
    assert version.metrics["loss"] == 1.0
    evaluated = version.metrics["evaluation"]
    assert evaluated["prompts_sha256"] == told["prompts_sha256"]
    assert evaluated["foundation_fingerprint"] == told["foundation"]["fingerprint"]
    assert evaluated["measured_at"]
    assert evaluated["open_prompts"] == told["open_prompts"]
    assert {"open_leakage", "open_leakage_colour", "open_diversity"} <= set(evaluated["metrics"])
    _, shown, _ = run("concepts", "show", "orbit")
    assert "motion fidelity ↑" in shown
    assert "no-debias" in shown
    assert "8 prompts, seeds 1, measured" in shown

    videos = {path.name: path.stat().st_mtime_ns for path in (out / "videos").iterdir()}
    assert len(videos) == 40 + 30
    assert run(*command)[0] == 0
    assert len(trainings) == 3
    assert {path.name: path.stat().st_mtime_ns for path in (out / "videos").iterdir()} == videos
    again = json.loads((out / "report.json").read_text())
    assert again["metrics"] == told["metrics"]


def test_prompts_from_a_file_as_json_and_without_publishing(run, published, tmp_path):
    (tmp_path / "prompts.csv").write_text(
        "prompt,concept\na red star,orbit\na cube,zigzag\n"
        f"a blue heart {'on a beige gradient ' * 30}in a green forest,\n"
    )
    code, out, err = run(
        "evaluate", "--concept", "orbit@1", "--prompts", tmp_path / "prompts.csv", "--seeds", "2",
        "--out", tmp_path / "out", "--no-publish", "--json", *SHORT,
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert [prompt[:12] for prompt in told["prompts"]] == ["a red star", "a blue heart"]
    (note,) = told["notes"]
    assert note.endswith("in a green forest'"), "what the text encoder does not read is named"
    assert f"note: {note}" in err
    assert len(told["metrics"]["motion_fidelity"]["scores"]["ours"]["values"]) == 4
    assert "evaluation" not in published.resolve("orbit").metrics


def test_other_clips_than_those_of_the_training_are_said(run, published, tmp_path):
    put(tmp_path / "clips", rendered("orbit", "zigzag"), tmp_path / "spool")
    (tmp_path / "p.txt").write_text("a red star\n")
    code, _, err = run(
        "evaluate", "--concept", "orbit", "--data", tmp_path / "clips", "--prompts", tmp_path / "p.txt",
        "--seeds", "1", "--out", tmp_path / "out", *SHORT,
    )  # fmt: skip
    assert code == 0
    assert "are not those that orbit@1 was trained on" in err
    assert "are not those that orbit@1 was trained on" in run("concepts", "show", "orbit")[1]


def test_what_a_batch_kept_of_its_own_evaluation_can_still_be_pulled(run, published, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "001.mp4").write_bytes(b"a video")
    files = put_files(published.storage, tmp_path / "samples")
    published.add_metrics(published.resolve("orbit"), {"evaluation": {"files": files}})
    (tmp_path / "p.txt").write_text("a red star\n")
    more = ("--prompts", tmp_path / "p.txt", "--seeds", "1", "--out", tmp_path / "out", *SHORT)
    assert run("evaluate", "--concept", "orbit", *more)[0] == 0
    assert published.resolve("orbit").metrics["evaluation"]["prompts"] == 1
    assert run("concepts", "pull", "orbit", "--to", tmp_path / "pulled", "--samples")[0] == 0
    assert (tmp_path / "pulled" / "evaluation" / "001.mp4").read_bytes() == b"a video"


def test_the_evaluation_of_a_batch_asks_open_prompts_and_makes_the_bases_videos_once(published, tmp_path):
    evaluation = Evaluation(str(tmp_path / "registry"), steps=1, device="cpu")
    said = evaluation(published.resolve("orbit"), lambda what, done, total: None)
    assert "open prompts: leakage" in said
    told = published.resolve("orbit").metrics["evaluation"]
    assert len(told["open_prompts"]) == 4
    assert {"open_leakage", "open_diversity"} <= set(told["metrics"])
    base = Path(evaluation._base.name) / "videos"
    kept = {file.name: file.stat().st_mtime_ns for file in base.iterdir()}
    assert len(kept) == 4
    evaluation(published.resolve("orbit"), lambda what, done, total: None)
    assert {file.name: file.stat().st_mtime_ns for file in base.iterdir()} == kept


def refused(run, *arguments):
    code, out, err = run("evaluate", *arguments)
    assert (code, out) == (2, "")
    return next(line for line in err.splitlines() if line.startswith("error: "))


def test_what_is_wrong_is_one_sentence(run, published, trained, tmp_path):
    assert "did you mean orbit" in refused(run, "--concept", "orbti")
    half = ("--against", "base,full", "--dtype", "fp16")
    assert "--dtype fp16: adapters are trained here" in refused(run, "--concept", "orbit", *half)
    assert "'nobody' is not a contender" in refused(run, "--concept", "orbit", "--against", "base,nobody")
    assert "cannot be read" in refused(run, "--concept", "orbit", "--prompts", tmp_path / "none.txt")
    (tmp_path / "others.csv").write_text("prompt,concept\na cube,zigzag\n")
    assert "for concepts other than orbit" in refused(
        run, "--concept", "orbit", "--prompts", tmp_path / "others.csv"
    )
    assert "no clips at" in refused(run, "--concept", "orbit", "--data", tmp_path / "none")
    other = ("--foundation", "tiny-random:wan", "--device", "cpu", "--out", tmp_path / "out")
    assert "made for foundation" in refused(run, "--concept", "orbit", *other)


def test_an_appearance_is_refused_before_a_model_is_loaded(run, published, trained, tmp_path, monkeypatch):
    folder = tmp_path / "look"
    shutil.copytree(trained[0], folder / "spatial")
    (folder / "config.yaml").write_text((trained[0] / "config.yaml").read_text())
    published.publish("look", folder, metadata=trained[1])
    monkeypatch.setattr("models.load.load_foundation", None)
    said = refused(run, "--concept", "look", "--out", tmp_path / "out")
    assert "look@1 gives an appearance and no motion, and an evaluation measures motions" in said
    assert not (tmp_path / "out").exists()
    assert "'appearance' is not a contender" in refused(run, "--concept", "orbit", "--against", "appearance")


def test_what_is_no_sprite_needs_prompts_and_says_so_before_a_baseline_trains(
    run, published, trainings, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    clip = make_clip(
        concept="orbit", caption="noise", frames_FHWC=noise, fps=8, source_uri="n.mp4", source_sha256="n"
    )
    put(tmp_path / "clips", [clip], tmp_path / "spool")
    more = ("--data", tmp_path / "clips", "--against", "full", "--out", tmp_path / "out", *SHORT)
    assert "--prompts is missing" in refused(run, "--concept", "orbit", *more)
    assert trainings == []


def test_a_version_that_does_not_say_how_it_was_trained_can_be_compared_with_the_base_only(
    run, published, trained, tmp_path
):
    folder, _, data = trained
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    published.publish("orbit", bare, metadata={})
    assert "give the clip set with --data" in refused(run, "--concept", "orbit@2")
    more = ("--foundation", FOUNDATION, "--data", data, "--out", tmp_path / "out", *SHORT)
    assert "use --against base" in refused(run, "--concept", "orbit@2", "--against", "full", *more)


def test_a_baseline_has_the_versions_settings_and_as_many_samples_a_step(foundation):
    given = {**SETTINGS, "skip_spatial": 0.2, "dtype": "bf16"}
    config = local_config(given, "no-debias", foundation)
    assert (config.method, config.workers, config.gradient_accumulation) == ("no-debias", 1, 2)
    assert (config.skip_spatial, config.rank, config.dtype) == (0.2, 2, "fp32")
    assert local_config(given, "coupled", foundation).skip_spatial == 0


def test_against_names_each_contender_once_and_every_method_but_ours():
    assert parse_against(" base, full ,base,") == ["base", "full"]
    assert parse_against("") == []
    assert {*BASELINES, "dual", "appearance"} == set(METHODS)


def test_help_teaches(run):
    _, out, _ = run("evaluate", "--help")
    for text in (
        "--against",
        "no network",
        "motiondirector evaluate --concept orbit",
        "held-out appearances",
    ):
        assert text in " ".join(out.replace("│", " ").split())
