"""`motiondirector train-batch` and `motiondirector runs`."""

import json
import pickle

import pytest
from clip_sets import sliding_clips, write_set
from typer.testing import CliRunner

from infra.registry import open_registry
from motiondirector.cli import build
from training.batch.validation import Validator


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    write_set(tmp_path / "clips", *sliding_clips("a", count=1), *sliding_clips("b", count=1))
    (tmp_path / "batch.yaml").write_text(
        "defaults: {data: clips, foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32, rank: 4, steps: 2}\n"
        "concepts:\n  - a\n  - {concept: b, steps: 3}\n"
    )
    return tmp_path


def cli(*arguments):
    return CliRunner().invoke(build(), [*arguments])


def shown(*arguments):
    result = cli(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


class Here:
    """Validates in this process: a child would load torch and diffusers once more (tests/training/test_validation.py)."""

    def __init__(self, batch, registry, validate):
        self.validator = Validator(batch, registry, pickle.loads(pickle.dumps(validate)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def finish(self, stopping):
        self.validator.run(stopping, lambda: True)


def test_a_batch_from_the_plan_to_the_registry(place, monkeypatch):
    monkeypatch.setattr("training.batch.run.Validating", Here)
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run")
    assert "2 concepts to train in 1 packs on 1 lane; 0 done before" in plan
    assert not (place / "reg").exists()
    (place / "prompts.csv").write_text("prompt,concept\na red star,\na blue cross,b\n")
    evaluated = ("--prompts", "prompts.csv", "--evaluate-steps", "1")
    ended = shown("train-batch", "batch.yaml", "--registry", "reg", *evaluated)
    assert "a: published a@1" in ended
    assert "motion fidelity" in ended
    assert {info.name for info in open_registry("reg").concepts()} == {"a", "b"}
    assert "0 concepts to train in 0 packs" in shown(
        "train-batch", "batch.yaml", "--registry", "reg", "--dry-run"
    )
    assert json.loads(shown("runs", "list", "--registry", "reg", "--json")) == {"batch": {"published": 2}}
    one = json.loads(shown("runs", "show", "batch", "b", "--registry", "reg", "--json"))
    assert (one["status"], one["version"], one["step"], one["lane"]) == ("published", "b@1", 3, None)
    assert one["evaluation"]["error"] is None
    assert one["evaluation"]["scores"]
    assert "published" in shown("runs", "show", "batch", "--registry", "reg")
    told = shown("runs", "show", "batch", "b", "--registry", "reg")
    assert "published  b@1" in told
    assert "motion fidelity" in told
    evaluation = json.loads(shown("concepts", "show", "b", "--registry", "reg", "--json"))["metrics"][
        "evaluation"
    ]
    assert evaluation["prompts"] == 2
    assert "concepts pull --samples" in shown("concepts", "show", "b", "--registry", "reg")
    shown("concepts", "pull", "b", "--registry", "reg", "--to", "b", "--samples")
    assert sorted(path.name for path in (place / "b" / "evaluation" / "samples").iterdir()) == [
        "001.mp4",
        "002.mp4",
        "sheet.png",
    ]
    assert (place / "b" / "evaluation" / "index.html").is_file()


def test_waiting_concepts_are_cancelled_and_tried_again(place):
    from infra.storage import open_storage
    from training.batch.manifest import read_manifest
    from training.batch.plan import make_plan
    from training.batch.run import enter
    from training.batch.state import open_batch

    plan = make_plan(read_manifest("batch.yaml"), "batch.yaml", open_registry("reg"))
    enter(open_batch(open_storage("reg"), "batch"), plan, {})
    assert "a: cancelled" in shown("runs", "cancel", "batch", "a", "--registry", "reg")
    assert "a: queued" in shown("runs", "retry", "batch", "a", "--registry", "reg")
    assert shown("runs", "cancel", "batch", "--all", "--registry", "reg").count("cancelled") == 2
    for arguments, words in (
        (("cancel", "batch", "a", "--all"), "give the concepts, or --all"),
        (("cancel", "batch", "nobody"), "nobody is not in the batch"),
        (("show", "other"), "no batch at"),
    ):
        result = cli("runs", *arguments, "--registry", "reg")
        assert words in result.exception.message


def test_mistakes_are_one_list_and_nothing_starts(place):
    (place / "batch.yaml").write_text("concepts:\n  - {concept: a, data: clips, steps: -1}\n  - concept: b\n")
    result = cli("train-batch", "batch.yaml", "--registry", "reg")
    assert result.exit_code == 1
    assert "line 2: steps -1" in result.exception.message
    assert "line 3: data is missing" in result.exception.message
    assert not (place / "reg").exists()
    result = cli(
        "train-batch", "clips", "--lanes", "2", "--foundation", "tiny-random:wan", "--setting", "frames=5"
    )
    assert "--lanes 2 is for --dry-run" in result.exception.message
