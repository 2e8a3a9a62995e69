"""`motiondirector mix`: what `generate` makes of the same adapters, in fewer words; what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from sample_adapters import random_adapter

import motiondirector as md
from datasets.video.writing import read_metadata
from infra.errors import InvalidInput, NotFound, UserError
from infra.registry import Version, open_registry
from models.adapters.file import save_adapter
from models.adapters.versions import ADAPTER_FILES
from models.load import load_foundation
from motiondirector.api import generate as generating
from motiondirector.api.generate import GenerateConfig, read_body
from motiondirector.api.mix import MixConfig
from motiondirector.api.video import Video

TINY = "tiny-random:unet3d"
ASKED = ("--prompt", "a bear", "--seed", "5", "--steps", "4", "--foundation", TINY)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Version]]:
    """(the registry, its versions): the motions orbit and swing, and the appearance look."""
    folder = tmp_path_factory.mktemp("mix")
    foundation = load_foundation(TINY, device="cpu", dtype="float32")
    registry, versions = open_registry(folder / "registry"), {}
    for seed, (concept, path) in enumerate(
        (("orbit", "temporal"), ("swing", "temporal"), ("look", "spatial"))
    ):
        adapter = random_adapter(foundation, path, rank=2, seed=seed, scale=0.5)
        place = (folder / concept / ADAPTER_FILES[path]).parent
        saved = save_adapter(place, adapter, foundation)
        versions[concept] = registry.publish(concept, folder / concept, metadata=dict(saved.metadata))
    return str(folder / "registry"), versions


def test_a_mix_is_the_video_of_these_adapters(run, published, tmp_path: Path):
    registry, versions = published
    mixed, alike, motion = (tmp_path / f"{name}.mp4" for name in ("mixed", "alike", "motion"))
    more = (*ASKED, "--registry", registry)
    code, out, err = run(
        "mix", "--appearance", "look:0.8", "--motion", "orbit@1", "--motion", "swing:0.6", "-o", mixed, *more
    )
    assert (code, err) == (0, "")
    assert "orbit@1 + swing@1 + look@1, seed 5, 4 steps" in out
    orbit, swing, look = (versions[name].adapter_sha256 for name in ("orbit", "swing", "look"))
    assert read_metadata(mixed)["adapters"] == f"temporal:{orbit}*1 temporal:{swing}*0.6 spatial:{look}*0.8"
    written = ("orbit@1:path=temporal", "swing:scale=0.6", "look:scale=0.8")  # without a path: what it gives
    assert run("generate", *(f"--lora={one}" for one in written), "-o", alike, *more)[0] == 0
    assert mixed.read_bytes() == alike.read_bytes()
    assert run("generate", "--concept", "orbit", "-o", motion, *more)[0] == 0
    assert motion.read_bytes() != mixed.read_bytes()

    short = md.GenerateConfig(
        concept="orbit", appearance="look", appearance_scale=0.8, seed=5, steps=4, foundation=TINY
    )
    chosen = MixConfig(motion="orbit", appearance=["look:0.8"], seed=5, steps=4, foundation=TINY)
    one, other = md.generate("a bear", short, registry=registry), md.mix("a bear", chosen, registry=registry)
    assert np.array_equal(one.frames_FHWC, other.frames_FHWC)
    assert one.used == other.used == "orbit@1 + look@1"


def test_an_adapter_may_be_written_as_for_lora_in_a_file_and_in_python(run, published, tmp_path, monkeypatch):
    asked = []
    made = Video(b"mp4", "orbit@1", 1, 2, "32x32", 4)
    monkeypatch.setattr(generating, "from_server", lambda body, url, *_: asked.append((body, url)) or made)
    file = tmp_path / "mix.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "motion": ["orbit:scale=1,0.5,steps=0-0.5", "swing:-0.5"],
                "appearance": [{"name": "look", "scale": 0.3}],
            }
        )
    )
    given = (
        "--prompt",
        "a bear",
        "--server",
        "http://127.0.0.1:1",
        "--size",
        "32x32",
        "-o",
        tmp_path / "o.mp4",
    )
    assert run("mix", "--config", file, *given)[0] == 0
    body, url = asked.pop()
    assert (body.model, body.size, url) == ("foundation", "32x32", "http://127.0.0.1:1")
    assert [(use.name, use.path, use.scale, use.steps) for use in body.lora] == [
        ("orbit", "temporal", (1.0, 0.5), (0.0, 0.5)),
        ("swing", "temporal", -0.5, None),
        ("look", "spatial", 0.3, None),
    ]
    prior = MixConfig(motion=["orbit@2", "swing"], noise_prior=0.3)
    assert read_body("a bear", prior)[0].noise_prior.concept == "orbit@2"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "a mix needs two concepts or more, and 0 is given"),
        (("--motion", "orbit"), "two concepts or more, and 1 is given"),
        (("--motion", "orbit") * 9, "9 of --motion and --appearance are given, but a video uses at most 8"),
        (
            ("--motion", "orbit:fast", "--motion", "a"),
            "--motion 'orbit:scale=fast': 'fast' is not made of numbers",
        ),
        (("--motion", "orbit:9", "--motion", "a"), "--motion orbit: scale: expected a number from -4 to 4"),
        (("--motion", "orbit:path=spatial", "--motion", "a"), "leave path out, or use --appearance"),
        (("--appearance", "look:path=temporal", "--motion", "a"), "leave path out, or use --motion"),
        (("--motion", "../up", "--appearance", "look"), "concept name '../up'"),
        (("--motion", "nobody", "--appearance", "look"), "concept nobody is not in the registry"),
        (
            ("--motion", "look", "--appearance", "look"),
            "look@1 has no temporal adapter (motion), it gives appearance",
        ),
        (
            ("--motion", "orbit", "--appearance", "swing"),
            "swing@1 has no spatial adapter (appearance), it gives motion",
        ),
        (("--motion", "orbit", "--appearance", "look", "--seed", "x"), "--seed"),
        (("--motion", "orbit", "--motion", "swing", "-o", "."), "is a folder"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_mixed_is_one_sentence_and_leaves_nothing(run, published, tmp_path, options, said):
    out = tmp_path / "out.mp4"
    code, printed, err = run("mix", "-o", out, *ASKED, "--registry", published[0], *options)
    assert (code, printed) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_python_raises_what_the_command_prints(published):
    with pytest.raises(InvalidInput, match="two concepts or more"):
        md.mix("a bear", MixConfig(motion="orbit"))
    with pytest.raises(NotFound, match="nobody"):
        md.mix("a bear", MixConfig(motion=["nobody", "orbit"], foundation=TINY), registry=published[0])
    with pytest.raises(UserError, match="is none of"):
        MixConfig(motion="orbit:colour=red")


def test_beside_a_motion_an_appearance_acts_at_half_its_scale_unless_one_is_given():
    def scales(config):
        return [entry.get("scale") for entry, _ in config.adapters if entry.get("path") == "spatial"]

    assert scales(MixConfig(motion="orbit", appearance=["look", "other:0.8"])) == [0.5, 0.8]
    assert scales(MixConfig(appearance=["look", "other"])) == [None, None]
    assert scales(GenerateConfig(appearance="look")) == [1.0]
    assert scales(GenerateConfig(appearance="look", concept="orbit")) == [0.5]
    assert scales(GenerateConfig(appearance="look", lora=["orbit"])) == [0.5]
    assert scales(GenerateConfig(appearance="look", concept="orbit", appearance_scale=1.0)) == [1.0]
