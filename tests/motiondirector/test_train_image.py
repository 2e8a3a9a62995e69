"""`motiondirector train --image`: from a picture to a published appearance; what cannot be used leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import motiondirector as md
import training.runs.run
from datasets.clip_sets.clips import read_clips
from infra.errors import Conflict, UserError
from infra.registry import open_registry
from models.adapters.versions import gives
from motiondirector.api.train import train
from motiondirector.batch.validation import Evaluation
from training.runs.job import Watcher

TINY = "tiny-random:unet3d"
SMALL = {"steps": 4, "rank": 4, "frames": 4, "height": 32, "width": 32, "checkpoint_interval": 2}


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    """A picture with a transparent corner."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8)
    picture[..., 3] = 255
    picture[:8, :8, 3] = 0
    Image.fromarray(picture).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch):
    """(job, settings) of what would be trained, without training."""
    found = []
    monkeypatch.setattr(
        training.runs.run, "run_job", lambda job, given, watcher: found.append((job, given)) or job
    )
    return found


class Notes(Watcher):
    """Remembers the remarks."""

    def __init__(self) -> None:
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.cluster
@pytest.mark.slow
def test_an_image_becomes_an_appearance(cat, tmp_path, monkeypatch):
    registry, run_dir = str(tmp_path / "registry"), tmp_path / "run"
    monkeypatch.chdir(tmp_path)

    def trained(watcher, **changed):
        config = md.TrainConfig(**{**SMALL, **changed})
        return train(
            "cat", config=config, image="cat.png", caption="a cat", flip=True, foundation=TINY, registry=registry,
            run_dir=str(run_dir), watcher=watcher,
        )  # fmt: skip

    notes = Notes()
    version = trained(notes)
    assert any(note.endswith("cat.png is transparent: shown on black") for note in notes.notes)
    assert trained(Notes()).ref == "cat@1", "a finished run returns its version"
    assert gives(version) == ("appearance",)
    metadata = version.metadata
    assert (metadata["method"], metadata["captions"], metadata["steps"]) == ("appearance", ["a cat"], 4)
    settings = yaml.safe_load(open_registry(registry).read(version, "config.yaml"))
    assert (settings["method"], settings["data"]) == ("appearance", str(run_dir / "clips"))
    assert len(read_clips(run_dir / "clips", "cat")) == 2
    assert any(name.startswith("samples/") for name in version.files)
    asked = {"prompt": "a cat", "registry": registry}
    chosen = {"seed": 1, "steps": 2, "foundation": TINY}
    shown = md.generate(config=md.GenerateConfig(appearance="cat", **chosen), **asked)
    plain = md.generate(config=md.GenerateConfig(**chosen), **asked)
    assert not np.array_equal(shown.frames_FHWC, plain.frames_FHWC)
    with pytest.raises(UserError, match="gives an appearance and no motion"):
        Evaluation(registry, steps=1, device="cpu")(version, lambda *_: None)


def test_the_size_is_that_of_the_training_and_the_method_is_said_by_the_image(cat, tmp_path, jobs):
    where = {"foundation": TINY, "run_dir": str(tmp_path / "run"), "registry": str(tmp_path / "registry")}
    config = md.TrainConfig(height=24, width=32, fps=12, steps=7)
    train("cat", config=config, image=cat, caption="a cat", **where)
    ((job, given),) = jobs
    assert given == {"height": 24, "width": 32, "fps": 12, "steps": 7, "method": "appearance"}
    assert job.data == str(tmp_path / "run" / "clips")
    (clip,) = read_clips(job.data, "cat")
    assert (clip.height, clip.width, clip.fps) == (24, 32, 12.0)
    assert not clip.frames_FHWC()[:, :2, :2].any(), "transparent on black"
    with pytest.raises(Conflict, match="--flip"):
        train("cat", config=config, image=cat, caption="a cat", flip=True, **where)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("data: clips\n")
    with pytest.raises(Conflict, match="holds a run on clips, not on an image"):
        train("cat", image=cat, caption="a cat", **{**where, "run_dir": str(tmp_path / "other")})
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["config.yaml"]


def picture(path: Path, size: tuple[int, int] = (40, 40)) -> Path:
    Image.new("RGB", size, "red").save(path)
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--image", "none.png"), "none.png does not exist; give an image file"),
        (("--image", "."), "is a folder; give an image file"),
        (("--image", "text.png"), "is not an image that can be read here"),
        (("--image", "cut.png"), "is not a readable image"),
        (("--image", "1x1.png"), "too small: 1x1 pixels do not cover 32x32"),
        (("--image", "moving.gif"), "has 3 frames, so it is no still image; save one frame"),
        (("--image", "wide.png"), "is 9000x1; sides may have at most 8192 pixels"),
        (("--image", "a.png", "--caption", " "), "--caption TEXT is missing"),
        (("--image", "a.png", "--data", "clips"), "--data and --image are both given"),
        (("--image", "a.png", "--method", "dual"), "--method dual learns a motion, and an image has none"),
        (("--image", "a.png", "--beta", "0.5"), "method appearance learns no motion; leave beta out"),
        (("--image", "a.png", "--height", "30"), "multiple of 8"),
        (("--image", "a.png", "--concept", "../up"), "concept name"),
        (("--image", "a.png", "--foundation", "nowhere/at/all"), "neither a folder here nor a hub id"),
        (("--data", "clips", "--flip"), "--caption is for an image; give --image FILE"),
        ((), "--data URI is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_trained_on_is_one_sentence_and_leaves_nothing(
    run, tmp_path, monkeypatch, jobs, options, said
):
    monkeypatch.chdir(tmp_path)
    for name, size in (("a.png", (40, 40)), ("1x1.png", (1, 1)), ("wide.png", (9000, 1))):
        picture(tmp_path / name, size)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    given = {"--concept": "cat", "--caption": "a cat", "--foundation": TINY}
    flags = [option for option in options if option == "--flip"]
    pairs = [option for option in options if option != "--flip"]
    given |= dict(zip(pairs[::2], pairs[1::2], strict=True))
    sizes = ("--height", "32", "--width", "32") if "--height" not in given else ()
    arguments = [word for pair in given.items() for word in pair]
    code, out, err = run("train", *arguments, *flags, *sizes)
    assert code == 2, (out, err)
    assert said in " ".join(err.split())
    assert len(err.splitlines()) == 1
    assert jobs == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
