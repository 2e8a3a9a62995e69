"""`motiondirector train`: its options are the settings, its mistakes are one sentence, its runs repeat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from clip_sets import sliding_clips, write_set
from typer.testing import CliRunner

import training.runs.run
from infra.errors import ConceptError, UserError
from infra.registry import ADAPTER_FILE, open_registry
from infra.setting import option_name
from infra.storage import open_storage
from motiondirector.commands import train as command
from training.config import TrainConfig
from training.described import data_sha256
from training.runs.inputs import bucket_of, read_concept
from training.runs.job import Job
from training.runs.record import RESULT, RunIdentity, finished
from training.runs.run import run_job

ROOT = Path(__file__).parents[3]


def cli(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", "motiondirector", "train", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    mute = sliding_clips("mute", count=1, caption="")
    return write_set(tmp_path_factory.mktemp("clips"), *sliding_clips("slide"), *mute)


@pytest.fixture
def resolved(monkeypatch):
    """What the command hands over, without training."""
    calls = []

    def remember(job, given, watcher):
        calls.append((job, training.runs.run.resolve(given, {"training": {"rank": 16, "dropout": 0.2}})))
        raise typer.Exit

    monkeypatch.setattr(training.runs.run, "run_job", remember)

    def run(*arguments):
        app = typer.Typer()
        app.callback()(lambda: None)
        command.register(app)
        outcome = CliRunner().invoke(app, ["train", *arguments])
        assert outcome.exit_code == 0, (outcome.output, outcome.exception)
        return calls.pop()

    return run


def test_every_setting_is_an_option_with_its_reason():
    shown = cli("--help").stdout
    for name, field in TrainConfig.model_fields.items():
        option = option_name(TrainConfig, name)
        assert option in shown, option
        assert field.description.split()[0] in shown
    for panel in ("Method", "Optimizer", "Workers", "Checkpoints and samples"):
        assert f"─ {panel} ─" in shown


def test_the_command_line_wins_over_the_file_over_the_foundation_over_the_default(resolved, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "concept: slide\ndata: clips\nrank: 8\nlearning-rate: 0.002\nworkers: 2\nsample_prompts: [a, b]\n"
    )
    job, config = resolved("--config", str(file), "--rank", "4", "--single-spatial")
    assert (job.concept, job.data, job.run_dir) == ("slide", "clips", "runs/slide")
    assert (config.rank, config.learning_rate, config.dropout, config.beta) == (4, 0.002, 0.2, 1.0)
    assert (config.workers, config.single_spatial, config.sample_prompts) == (2, True, ("a", "b"))


def test_a_saved_configuration_gives_the_same_settings_again(resolved, tmp_path):
    job, config = resolved("--concept", "slide", "--data", "clips", "--steps", "7", "--sample-prompt", "a: b")
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump(
            {"concept": "slide", "data": "clips", "foundation": None, **config.model_dump(mode="json")}
        )
    )
    again_job, again = resolved("--config", str(file))
    assert again == config
    assert again_job == job


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "-5"], "steps -5"),
        (["--workers", "0"], "workers 0"),
        (["--workers", "1:4", "--zero", "2"], "elastic"),
        (["--concept", "../up"], "concept name"),
        (["--concept", "nobody"], "no clips of concept 'nobody'"),
        (["--data", "nowhere"], "no clips at"),
        (["--concept", "mute"], "has no caption"),
        (["--foundation", "nowhere/at/all"], "neither a folder here nor a hub id"),
        (["--frames", "64"], "smaller than 64x32x32"),
        (["--height", "30"], "multiple of 8"),
        (["--registry", "ftp://x"], "unknown scheme"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_before_ray_starts_and_leaves_nothing(
    clips, tmp_path, monkeypatch, arguments, words
):
    def start(*_):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(training.runs.run, "start_ray", start)
    run_dir = tmp_path / "run"
    sizes = ["--frames", "4", "--height", "32", "--width", "32"]
    given = {
        "--concept": "slide",
        "--data": clips,
        "--foundation": "tiny-random:unet3d",
        "--run-dir": str(run_dir),
    }
    result = None
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        given[option] = value
    settings = dict(zip(sizes[::2], sizes[1::2], strict=True)) | given
    values = {key.removeprefix("--").replace("-", "_"): value for key, value in settings.items()}
    job = Job(
        concept=values.pop("concept"),
        data=values.pop("data"),
        run_dir=values.pop("run_dir"),
        registry=values.pop("registry", str(tmp_path / "registry")),
        foundation=values.pop("foundation"),
    )
    with pytest.raises(UserError) as caught:
        result = run_job(job, values)
    assert result is None
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert not run_dir.exists() or not list(run_dir.rglob("*"))


def test_the_command_ends_with_2_and_the_sentence(clips, tmp_path):
    result = cli("--concept", "slide", "--data", clips, "--steps", "-5", "--run-dir", str(tmp_path / "run"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: steps -5")
    assert "Traceback" not in result.stderr
    assert cli("--data", clips).returncode == 2


def test_a_folder_with_another_run_is_refused(clips, tmp_path, unet3d):
    from infra.storage import open_storage

    job = Job("slide", clips, str(tmp_path / "run"), "registry", "tiny-random:unet3d")
    run, read = open_storage(job.run_dir), read_concept(job)
    config = TrainConfig(frames=4)
    record = RunIdentity.of(job, config, unet3d, read).put(run)
    assert record.data_sha256 == data_sha256(read)
    elsewhere = RunIdentity.of(
        job, config.model_copy(update={"workers": 3, "sample_interval": 9}), unet3d, read
    )
    elsewhere.check(run)
    assert elsewhere.put(run) == record
    with pytest.raises(UserError, match=r"holds a run with rank 32 \(now 8\)"):
        RunIdentity.of(job, config.model_copy(update={"rank": 8}), unet3d, read).check(run)
    with pytest.raises(UserError, match="data_sha256"):
        RunIdentity.of(job, config, unet3d, read[:1]).check(run)


def test_the_steps_of_a_run_may_be_raised_where_that_changes_none_that_were_done(clips, tmp_path, unet3d):
    job = Job("slide", clips, str(tmp_path / "run"), "registry", "tiny-random:unet3d")
    run, read = open_storage(job.run_dir), read_concept(job)
    config = TrainConfig(frames=4, steps=30, warmup_steps=5)
    record = RunIdentity.of(job, config, unet3d, read).put(run)
    more = RunIdentity.of(job, config.model_copy(update={"steps": 50}), unet3d, read)
    more.check(run)
    with pytest.raises(
        UserError, match=r"holds a run of 30 steps, more than 29; give --steps 30 to continue it"
    ):
        RunIdentity.of(job, config.model_copy(update={"steps": 29}), unet3d, read).check(run)
    assert more.put(run) == record
    with pytest.raises(UserError, match="holds a run of 50 steps"):
        RunIdentity.of(job, config, unet3d, read).check(run)

    elsewhere = open_storage(tmp_path / "cosine")
    falling = config.model_copy(update={"schedule": "cosine"})
    RunIdentity.of(job, falling, unet3d, read).put(elsewhere)
    RunIdentity.of(job, falling, unet3d, read).check(elsewhere)
    with pytest.raises(UserError, match=r"cosine schedule ends at 0 after 30 steps") as caught:
        RunIdentity.of(job, falling.model_copy(update={"steps": 50}), unet3d, read).check(elsewhere)
    assert caught.value.code == "other_run"

    elsewhere = open_storage(tmp_path / "stages")
    staged = config.model_copy(update={"appearance_share": 0.4})
    RunIdentity.of(job, staged, unet3d, read).put(elsewhere)
    with pytest.raises(UserError, match=r"30 steps, divided by appearance_share, so 50 steps would change"):
        RunIdentity.of(job, staged.model_copy(update={"steps": 50}), unet3d, read).check(elsewhere)


def test_a_finished_run_whose_version_was_removed_needs_another_folder(tmp_path):
    registry, run = open_registry(tmp_path / "reg"), open_storage(tmp_path / "run")
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in (ADAPTER_FILE, "adapter_config.json"):
        (folder / name).write_bytes(b"weights")
    registry.publish("slide", folder, metadata={})
    run.put(RESULT, json.dumps({"registry": registry.uri, "version": "slide@1"}).encode())
    assert finished(run, registry).ref == "slide@1"
    registry.remove("slide@1")
    with pytest.raises(UserError, match=r"slide@1 is no longer in .*; give another --run-dir"):
        finished(run, registry)


def test_a_run_from_before_a_setting_existed_goes_on_at_its_default(clips, tmp_path, unet3d):
    from infra.storage import open_storage

    job = Job("slide", clips, str(tmp_path / "run"), "registry", "tiny-random:unet3d")
    run, read = open_storage(job.run_dir), read_concept(job)
    RunIdentity.of(job, TrainConfig(), unet3d, read).put(run)
    settings = yaml.safe_load(run.get("config.yaml"))
    del settings["noise_bias"]
    run.put("config.yaml", yaml.safe_dump(settings).encode())
    RunIdentity.of(job, TrainConfig(), unet3d, read).check(run)
    with pytest.raises(UserError, match=r"noise_bias None \(now 0.5\)"):
        RunIdentity.of(job, TrainConfig(noise_bias=0.5), unet3d, read).check(run)


def test_the_size_is_the_foundations_unless_given(unet3d):
    assert str(bucket_of(TrainConfig(), unet3d)) == str(unet3d.defaults.bucket)
    assert str(bucket_of(TrainConfig(frames=5, height=64), unet3d)).startswith("5x64x")


def test_a_workers_user_error_is_handed_back_and_not_tried_again(monkeypatch):
    import ray

    from training.ray import train as ray_train

    def refuse(task, board):
        raise ConceptError("the loss became nan", code="diverged")

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(ray_train, "_train", refuse)
    answer = ray_train.worker({"task": None, "board": None})
    assert isinstance(answer, ConceptError)
    assert (answer.message, answer.code) == ("the loss became nan", "diverged")
