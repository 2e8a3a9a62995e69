"""The benchmark against the paper's published code: rejected input, its settings and files, and our side."""

import json

import pytest
import torch
import yaml

from benchmarks import published_code
from benchmarks.published_parts import sides
from benchmarks.published_parts.turns import Took
from infra.errors import UserError
from models.load import load_foundation
from motiondirector.study.looks import reference_clips
from training.recommended import resolve

TINY = "tiny-random:unet3d"


@pytest.fixture
def checkout(tmp_path):
    """The files of a checkout that the benchmark checks before it runs any of them."""
    folder = tmp_path / "published"
    for name in ("MotionDirector_train.py", "models/unet_3d_condition.py", "utils/lora.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "configs").mkdir()
    shared = {"train_data": {"fps": 8, "width": 384}, "validation_data": {"prompt": ["a car"]}}
    for name, own in (("single", {"adam_weight_decay": 0.5}), ("multi", {"adam_weight_decay": 0.25})):
        settings = yaml.safe_dump({**shared, **own, "gradient_checkpointing": True})
        (folder / "configs" / f"config_{name}_video{'s' * (name == 'multi')}.yaml").write_text(
            settings + "learning_rate: 5e-4\n"
        )
    return folder


def work(folder, clips=1, **own):
    foundation = load_foundation(TINY, device="cpu", dtype="fp32")
    config = resolve({"method": "motiondirector", "rank": 4, **own}, foundation.recommended, clips)
    return sides.Work(
        foundation, TINY, reference_clips("orbit", clips, 0, "class"), config, folder / "work", 1
    )


def test_without_a_checkout_the_error_says_how_to_get_one(capsys):
    assert published_code.main([]) == 2
    assert "git clone https://github.com/showlab/MotionDirector" in capsys.readouterr().err


def test_the_error_for_a_folder_that_is_not_a_checkout_names_a_missing_file(checkout, capsys):
    assert sides.checkout_at(checkout) == checkout
    (checkout / "utils" / "lora.py").unlink()
    assert published_code.main([str(checkout)]) == 2
    error = capsys.readouterr().err
    assert "it has no utils/lora.py" in error
    assert "git clone" in error


@pytest.mark.parametrize("wrong", ["one", "0", "1,7"])
def test_numbers_of_clips_that_are_none_are_refused(wrong):
    with pytest.raises(SystemExit) as ended:
        published_code.arguments(["published", "--clips", wrong])
    assert ended.value.code == 2


def test_each_number_of_clips_has_the_settings_published_for_it(checkout):
    assert sides.published_settings(checkout, 1)["adam_weight_decay"] == 0.5
    several = sides.published_settings(checkout, 4)
    assert several["adam_weight_decay"] == 0.25
    assert several["learning_rate"] == 5e-4  # YAML 1.1 reads a text


@pytest.mark.parametrize("clips", [1, 2])
def test_the_published_code_gets_our_settings_and_latents_over_its_own(checkout, tmp_path, clips):
    of = work(tmp_path, clips, steps=20, learning_rate=2e-3)
    of.write()
    as_it_is, alike = (of.published(checkout, like_for_like=like) for like in (False, True))
    config = as_it_is.job["config"]
    assert (config["lora_rank"], config["learning_rate"], config["max_train_steps"]) == (4, 2e-3, 20)
    assert config["adam_weight_decay"] == (0.5 if clips == 1 else 0.25)
    assert config["gradient_checkpointing"]
    assert config["train_data"]["fps"] == 8
    assert config["train_data"]["width"] == 64
    assert config["checkpointing_steps"] > 20
    assert not alike.job["config"]["gradient_checkpointing"]
    assert as_it_is.environment == {}
    assert alike.environment["MALLOC_MMAP_MAX_"] == "0"
    json.dumps(as_it_is.job)
    ours = torch.load(of.folder / "clips.pt")
    for number in range(clips):
        theirs = torch.load(f"{config['cached_latent_dir']}/cached_{number}.pt")
        assert torch.equal(theirs["latents"], ours[number]["visual"]["latents"])
        assert theirs["text_prompt"] == ours[number]["caption"]
        assert theirs["prompt_ids"].ndim == 1


def test_the_file_of_the_published_code_becomes_layers_in_its_order(tmp_path):
    up, down = torch.ones(3, 2), torch.zeros(2, 5)
    torch.save([torch.nn.Parameter(tensor) for tensor in (up, down, up * 2, down)], tmp_path / "lora.pt")
    found = published_code.published_lora(tmp_path / "lora.pt", ["first", "second"])
    assert {name: (a.shape, b.shape) for name, (a, b) in found.items()} == {
        "first": ((2, 5), (3, 2)),
        "second": ((2, 5), (3, 2)),
    }
    assert torch.equal(found["second"][1], up * 2)
    with pytest.raises(UserError, match="expected two for each of 3 layers"):
        published_code.published_lora(tmp_path / "lora.pt", ["first", "second", "third"])


def test_steps_of_both_kinds_are_timed_apart():
    took = [Took(2.0, 3.0, True), Took(4.0, 3.0, True), Took(1.0, 1.0, False)]
    ours = [one._asdict() for one in took]
    assert published_code.step_seconds(ours, "cpu") == pytest.approx(0.8 * 3 + 0.2 * 1)
    assert published_code.step_seconds(ours[:2], "cpu") == 3
    other = [Took(1.0, 1.0, True), Took(1.0, 1.0, False), Took(4.0, 1.0, False)]
    assert published_code.paired(ours, [one._asdict() for one in other], "cpu") == [0.25, 2.0]


def test_our_side_trains_in_turns_to_a_file_that_makes_videos(tmp_path):
    of = work(tmp_path, steps=4)
    of.write()
    ours = of.ours()
    ours.start()
    try:
        ours.step()
        assert all(took.cpu > 0 for took in ours.steps)
        assert len(ours.steps) == 1
        ours.start_remaining()
        lora = published_code.load(ours.finish())
    finally:
        ours.end()
    assert set(lora) == set(of.foundation.targets["temporal"])
    assert any(b.any() for _, b in lora.values())
    options = published_code.arguments(["published", "--appearances", "1"])
    found = published_code.judge(of.foundation, of.references, {"ours": lora}, 1, options)
    assert {name: len(values) for name, values in found.items()} == {"base model": 1, "ours": 1}


def test_the_error_for_a_process_that_ends_early_has_the_end_of_its_output(tmp_path):
    of = work(tmp_path, steps=4)
    of.folder.mkdir()
    (of.folder / "clips.pt").write_bytes(b"no clips")
    with pytest.raises(UserError, match="ended early; the end of its output:"):
        of.ours().start()
