"""`motiondirector sprites`: drawing, measuring, and its answers to wrong input."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datasets.clip_sets.clips import read_clips
from datasets.sprites.looks import looks_of
from datasets.sprites.track import track
from datasets.video.decode import decode
from datasets.video.writing import encode_mp4

FOUNDATION = Path(__file__).parents[2] / "assets" / "foundation"


def test_a_drawn_trajectory_becomes_a_clip_that_measures_as_drawn(run, tmp_path):
    path = tmp_path / "vee.json"
    path.write_text(json.dumps([[0, 0.25, 0.3], [1, 0.5, 0.7], [2, 0.75, 0.3]]))
    clip = tmp_path / "vee.mp4"
    code, _, err = run(
        "sprites",
        "render",
        "--trajectory",
        path,
        "--prompt",
        "a red star on a navy gradient",
        "-o",
        clip,
        "--frames",
        9,
    )
    assert code == 0, err
    seen = track(decode(clip).frames_FHWC)
    assert seen.present
    assert (seen.most("colour"), seen.most("shape"), seen.most("background")) == ("red", "star", "navy")
    assert seen.x[[0, 4, 8]] == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    assert seen.y[[0, 4, 8]] == pytest.approx([0.3, 0.7, 0.3], abs=0.02)


def test_a_motion_in_several_appearances_comes_with_captions_that_name_them(run, tmp_path):
    folder = tmp_path / "orbit"
    code, _, err = run("sprites", "render", "--motion", "orbit", "--appearances", 3, "--to", folder)
    assert code == 0, err
    rows = list(csv.DictReader((folder / "captions.csv").open()))
    assert [row["file"] for row in rows] == ["orbit-000.mp4", "orbit-001.mp4", "orbit-002.mp4"]
    for row in rows:
        seen = track(decode(folder / row["file"]).frames_FHWC)
        assert "orbits" in row["caption"]
        assert seen.most("colour") in row["caption"].split()
        assert seen.most("shape") in row["caption"].split()


def test_words_for_a_drawn_motion_are_in_the_caption_of_a_prompt(run, tmp_path):
    path = tmp_path / "vee.json"
    path.write_text(json.dumps([[0, 0.25, 0.3], [1, 0.5, 0.7], [2, 0.75, 0.3]]))
    drawn = ("sprites", "render", "--trajectory", path, "--prompt", "a red star on a navy gradient")
    for number, words in enumerate((["--words", "draws a heart"], [])):
        folder = tmp_path / str(number)
        code, _, err = run(*drawn, *words, "--to", folder)
        assert code == 0, err
    captions = [next(csv.DictReader((tmp_path / name / "captions.csv").open()))["caption"] for name in "01"]
    assert captions == ["a red star draws a heart on a navy gradient", "a red star on a navy gradient"]


def test_another_object_moves_in_its_own_way_and_is_in_the_caption(run, tmp_path):
    path = tmp_path / "down.json"
    path.write_text(json.dumps([[0, 0.8, 0.2], [1, 0.8, 0.8]]))
    first = ("--trajectory", tmp_path / "left.json", "--prompt", "a small red star on a navy background")
    (tmp_path / "left.json").write_text(json.dumps([[0, 0.5, 0.3], [1, 0.2, 0.3]]))
    second = ("--second", "a small blue circle", "--second-trajectory", path)
    code, _, err = run("sprites", "render", *first, *second, "--words", "moves to the left", "--to", tmp_path)
    assert code == 0, err
    (row,) = csv.DictReader((tmp_path / "captions.csv").open())
    assert row["caption"] == "a small red star and a small blue circle moves to the left on a navy background"
    video = decode(tmp_path / row["file"]).frames_FHWC.astype(int)
    red, blue = (video[..., one] - video[..., other] > 100 for one, other in ((0, 2), (2, 0)))
    for frame, star, circle in ((0, (0.5, 0.3), (0.8, 0.2)), (-1, (0.2, 0.3), (0.8, 0.8))):
        assert middle(red[frame]) == pytest.approx(star, abs=0.03)
        assert middle(blue[frame]) == pytest.approx(circle, abs=0.03)


def middle(mask_HW):
    """(x, y) of the mean pixel, in frame widths."""
    y, x = np.argwhere(mask_HW).mean(axis=0)
    return (x + 0.5) / mask_HW.shape[1], (y + 0.5) / mask_HW.shape[0]


def test_brackets_in_a_prompt_are_shown_as_they_are(run, tmp_path):
    code, out, err = run(
        "sprites", "render", "--motion", "up", "--prompt", "a red star [/b]", "-o", tmp_path / "[i]a.mp4"
    )
    assert code == 0, err
    assert "[i]a.mp4  a red star [/b]" in out


def test_the_same_command_writes_the_same_bytes(run, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        assert run("sprites", "render", "--motion", "zigzag", "--seed", 4, "-o", tmp_path / name)[0] == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--motion", "moonwalk", "-o", "x.mp4"], "no motion is called"),
        (["-o", "x.mp4"], "give one motion"),
        (["--motion", "orbit"], "where to write"),
        (["--motion", "orbit", "--appearances", "3", "-o", "x.mp4"], "--to FOLDER"),
        (["--motion", "orbit", "--prompt", "a dog in the snow", "-o", "x.mp4"], "names no object"),
        (["--motion", "orbit", "--prompt", "a red star on a blue gradient", "-o", "x.mp4"], "no background is blue"),
        (["--motion", "orbit", "--prompt", "a red star moves up", "-o", "x.mp4"], "says 'up', but --motion orbit"),
        (["--motion", "up", "--prompt", "a red star moves up slowly", "-o", "x.mp4"], "says 'slowly'"),
        (["--motion", "orbit", "--size", "65", "-o", "x.mp4"], "odd"),
        (["--motion", "orbit", "--tint", "sepia", "-o", "x.mp4"], "no tint is called 'sepia'"),
        (["--motion", "orbit", "--tint", "warm:much", "-o", "x.mp4"], "such as warm:0.4"),
        (["--motion", "orbit", "--drift", "1,2,3", "-o", "x.mp4"], "x or x,y"),
        (["--motion", "orbit", "--drift", "0.9", "-o", "x.mp4"], "drift of the camera is 0.9"),
        (["--motion", "orbit", "--idle", "a ball", "-o", "x.mp4"], "names no object"),
        (["--motion", "orbit", "--idle", "a red ring moves up", "-o", "x.mp4"], "more than an object"),
        (["--motion", "orbit", "--idle", "a red ring", "--second", "a red ring", "--second-motion", "up", "-o", "x.mp4"],
         "leave one of them out"),
        (["--trajectory", "missing.json", "-o", "x.mp4"], "cannot be read"),
        (["--motion", "orbit", "--second", "a blue circle", "-o", "x.mp4"], "needs words and one motion"),
        (["--motion", "orbit", "--second-motion", "right", "-o", "x.mp4"], "needs words and one motion"),
        (["--motion", "orbit", "--second", "a circle", "--second-motion", "right", "-o", "x.mp4"], "names no object"),
        (["--motion", "orbit", "--second", "a blue circle on navy", "--second-motion", "right", "-o", "x.mp4"],
         "more than an object"),
    ],
)  # fmt: skip
def test_wrong_input_is_answered_in_one_sentence(run, arguments, says):
    code, _, err = run("sprites", "render", *arguments)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_the_list_names_known_and_novel_motions(run):
    code, out, _ = run("sprites", "list")
    assert code == 0
    assert "down-left" in out
    assert "figure-eight" in out


def test_measure_prints_the_trackers_own_accuracy(run):
    code, out, _ = run("sprites", "measure", "--count", 31)
    assert code == 0
    assert "colour" in out
    assert "100.0%" in out


def test_a_clip_that_is_not_square_is_answered_in_one_sentence(run, tmp_path):
    clip = tmp_path / "wide.mp4"
    encode_mp4(np.zeros((4, 32, 48, 3), np.uint8), 8, clip)
    code, _, err = run("sprites", "measure", clip)
    assert code == 2
    assert "wide.mp4: the sprite tracker got a video of 4 frames of 48x32 pixels" in err


def test_measure_shows_the_brackets_of_a_path(run, tmp_path):
    clip = tmp_path / "[b]orbit[/i].mp4"
    assert run("sprites", "render", "--motion", "orbit", "-o", clip)[0] == 0
    code, out, err = run("sprites", "measure", clip)
    assert code == 0, err
    assert "[b]orbit[/i].mp4" in out.replace("\n", "").replace(" ", "")


def test_a_style_is_drawn_measured_and_left_out_of_the_caption(run, tmp_path):
    folder = tmp_path / "styled"
    style = ("--outline", "--tint", "cold", "--clutter", 12, "--drift", "0.2,0", "--idle", "a yellow circle")
    command = (
        "sprites",
        "render",
        "--motion",
        "orbit",
        "--appearances",
        2,
        *style,
        "--seed",
        1,
        "--to",
        folder,
    )
    code, _, err = run(*command)
    assert code == 0, err
    for row in csv.DictReader((folder / "captions.csv").open()):
        assert not {"cold", "outline", "yellow"} & set(row["caption"].split())
        seen = looks_of(decode(folder / row["file"]).frames_FHWC)
        assert (seen.outlined, seen.tint, seen.cluttered, seen.second) == (True, "cold", True, True)
        assert seen.drift == pytest.approx((0.2, 0), abs=0.03)
    code, out, err = run("sprites", "measure", folder / "orbit-000.mp4")
    assert code == 0, err
    told = " ".join(out.split())
    assert "outline (" in told
    assert "cold tint (2" in told
    assert "a second object" in told


def test_measure_prints_how_right_styles_are_read(run):
    code, out, _ = run("sprites", "measure", "--count", 6, "--styles", 6)
    assert code == 0
    assert "styles of 6 parts" in " ".join(out.split())
    assert "second object" in out
    assert "grey levels" in out


def test_a_tracker_is_not_tested_on_no_clips(run):
    code, _, err = run("sprites", "measure", "--count", 0)
    assert code == 2
    assert "--count" in err


def test_pretraining_that_goes_on_from_a_checkpoint_keeps_the_decoder_it_has_trained(run, tmp_path):
    command = ["sprites", "pretrain", "--out", tmp_path, "--stage", "decoder", "--init", FOUNDATION]

    def decoders():
        return [
            load_file(folder / "diffusion_pytorch_model.safetensors")["decoder.conv_out.weight"]
            for folder in (FOUNDATION / "vae", tmp_path / "vae", tmp_path / "pipeline" / "vae")
        ]

    assert run(*command, "--steps", 1, "--every", 1)[0] == 0
    before, trained, released = decoders()
    assert not torch.equal(released, before)
    assert torch.equal(released, trained.half())
    assert run(*command, "--steps", 1, "--every", 1)[0] == 0  # nothing is left to do
    _, kept, released_again = decoders()
    assert torch.equal(kept, trained)
    assert torch.equal(released_again, released)


def test_pretraining_the_denoiser_needs_an_autoencoder(run, tmp_path):
    code, _, err = run("sprites", "pretrain", "--out", tmp_path, "--stage", "unet")
    assert code == 2
    assert "--stage vae first" in err


def test_masks_beside_rendered_clips_are_taken_by_ingest(run, tmp_path):
    folder = tmp_path / "two"
    drawn = ("sprites", "render", "--motion", "orbit", "--appearances", 2, "--to", folder, "--masks")
    code, _, err = run(*drawn, "--second", "a small blue circle", "--second-motion", "right")
    assert code == 0, err
    for number, name in enumerate(("masks.json", "masks-second.json")):
        boxes = json.loads((folder / name).read_text())
        assert list(boxes) == ["orbit-000.mp4", "orbit-001.mp4"]
        given = (folder, "--captions", folder / "captions.csv", "--concept", "orbit", "--mirror")
        size = ("--frames", 8, "--height", 64, "--width", 64, "--fps", 8)
        code, out, err = run(
            "ingest", *given, "--masks", folder / name, *size, "--to", tmp_path / str(number)
        )
        assert code == 0, err
        assert "4 accepted" in out
        for clip in read_clips(tmp_path / str(number)):
            drawn_boxes = [frame["box"] for frame in boxes[Path(clip.source_uri).name]["keyframes"]]
            stored = [frame.box for frame in clip.mask.keyframes]
            if clip.variant:
                stored = [(1 - right, top, 1 - left, bottom) for left, top, right, bottom in stored]
            assert np.allclose(stored, drawn_boxes, atol=1e-5)


def test_masks_need_a_folder_and_an_object_in_every_frame(run, tmp_path):
    code, _, err = run("sprites", "render", "--motion", "orbit", "-o", tmp_path / "a.mp4", "--masks")
    assert code == 2
    assert "use --to FOLDER" in err
    path = tmp_path / "away.json"
    path.write_text(json.dumps([[0, 0.5, 0.5], [1, 1.9, 0.5]]))
    code, _, err = run("sprites", "render", "--trajectory", path, "--to", tmp_path / "away", "--masks")
    assert code == 2
    assert "the object of away-000.mp4 is outside the picture in frame" in err
    assert not (tmp_path / "away").exists()
