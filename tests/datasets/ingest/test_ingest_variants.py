"""`ingest --speed --reverse --mirror`: variants beside each clip, each a clip of the set."""

import json

import numpy as np
import pytest
from dataset_commands import command
from sample_videos import moving_picture, write_video

import motiondirector.commands.clips
import motiondirector.commands.ingest
from datasets.clip_sets.clips import read_clips, read_facts
from datasets.clip_sets.select import Selection
from datasets.clip_sets.variants import variants
from datasets.ingest.local import ingest
from datasets.ingest.sources import expand
from infra.storage import open_storage
from motiondirector.api.ingest import IngestConfig

SMALL = Selection(frames=8, height=96, width=128, fps=6)
ALL = variants([0.5, 2.0], reverse=True, mirror=True)
SLACK = 12  # grey levels between a picture and the same one from another mp4


@pytest.fixture
def into(tmp_path):
    def run(sources, selection=SMALL, **options):
        options = {"concept": "slide", "caption": "a texture slides", "variants": ALL} | options
        return ingest(expand([str(s) for s in sources]), selection, open_storage(tmp_path / "set"), **options)

    return run


@pytest.fixture
def long(make_video):
    """4 seconds at 12 fps."""
    return make_video("a.mp4", num_frames=48, options={"crf": "1"})


def by_variant(tmp_path):
    return {clip.variant or "": clip for clip in read_clips(tmp_path / "set")}


def apart(a_FHWC, b_FHWC):
    return float(np.abs(a_FHWC.astype(float) - b_FHWC).mean())


def test_each_variant_is_a_clip_of_its_own_that_names_its_original(into, long, tmp_path):
    report = into([long])
    assert [(o.status, o.variant) for o in report.outcomes] == [
        ("accepted", name) for name in ("", "speed-0.5", "speed-2", "reverse", "mirror")
    ]
    found = by_variant(tmp_path)
    original = found.pop("")
    assert original.variant_of is None
    assert {name: clip.caption for name, clip in found.items()} == {
        "speed-0.5": "a texture slides slowly",
        "speed-2": "a texture slides fast",
        "reverse": "a texture slides in reverse",
        "mirror": "a texture slides mirrored",
    }
    for clip in found.values():
        assert clip.variant_of == original.clip_id
        assert (clip.num_frames, clip.fps, clip.source_uri) == (8, 6, str(long))
    assert len({clip.sha256 for clip in [original, *found.values()]}) == 5
    assert {o.variant_of for o in report.outcomes} == {"", original.clip_id}
    facts = {clip.variant or "": clip.variant_of for clip in read_facts(tmp_path / "set")["slide"]}
    assert facts == {"": None, **dict.fromkeys(found, original.clip_id)}


def test_a_variant_shows_the_pictures_of_its_times(into, long, tmp_path):
    into([long])
    found = {name: clip.frames_FHWC() for name, clip in by_variant(tmp_path).items()}
    original, source = found[""], moving_picture(48, 180, 320)
    assert apart(found["reverse"], original[::-1]) < SLACK < apart(found["reverse"], original)
    assert apart(found["mirror"], original[:, :, ::-1]) < SLACK < apart(found["mirror"], original)
    for name, step in (("speed-0.5", 1), ("", 2), ("speed-2", 4)):  # of the source's 12 frames a second
        middle = found[name][:, 40:56, 56:72].astype(float).mean((1, 2))
        expected = source[: 8 * step : step, 75:105, 145:175].astype(float).mean((1, 2))
        assert np.abs(middle - expected).max() < SLACK, name


def test_the_same_command_adds_nothing_and_another_variant_only_itself(into, long, tmp_path):
    into([long], variants=variants(reverse=True))
    again = into([long])
    assert [(o.status, o.variant) for o in again.outcomes] == [
        ("duplicate", ""),
        ("accepted", "speed-0.5"),
        ("accepted", "speed-2"),
        ("duplicate", "reverse"),
        ("accepted", "mirror"),
    ]
    before = {clip.clip_id: clip.sha256 for clip in read_clips(tmp_path / "set")}
    assert into([long]).count("duplicate") == 5
    assert {clip.clip_id: clip.sha256 for clip in read_clips(tmp_path / "set")} == before


def test_a_variant_with_the_bytes_of_its_clip_is_a_duplicate(into, tmp_path):
    picture = np.repeat(moving_picture(1, 180, 320), 24, 0)
    still = write_video(tmp_path / "still.mkv", picture, codec="ffv1")  # lossless: each frame is the same
    report = into([still], variants=variants(reverse=True))
    assert [o.status for o in report.outcomes] == ["accepted", "duplicate"]
    assert report.outcomes[1].clip_id == report.outcomes[0].clip_id
    assert len(read_clips(tmp_path / "set")) == 1


def test_variants_of_a_repeated_clip_belong_to_the_clip_that_the_set_has(into, long, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(long.read_bytes() + b"\0\0\0\x08free")  # another file of the same pictures
    into([long], variants=())
    report = into([copy], variants=variants(mirror=True))
    (original,) = (clip for clip in read_clips(tmp_path / "set") if clip.variant is None)
    assert [o.status for o in report.outcomes] == ["duplicate", "accepted"]
    assert report.outcomes[1].variant_of == original.clip_id
    assert by_variant(tmp_path)["mirror"].variant_of == original.clip_id


def test_a_video_too_short_for_a_faster_variant_refuses_that_variant_alone(into, make_video, tmp_path):
    report = into([make_video("short.mp4", num_frames=24)])
    refused = [o for o in report.outcomes if o.status == "refused"]
    assert [o.variant for o in refused] == ["speed-2"]
    assert "too short for speed 2: from 0 s on it needs 2.67 s, and there are 2.00" in refused[0].reason
    assert report.count("accepted") == 4
    assert into([tmp_path / "short.mp4"], concept="all", strict=True).count("accepted") == 0


def test_every_window_has_its_variants_and_repeated_frames_are_said(into, make_video):
    path = make_video("slow.mp4", num_frames=24, fps=6)
    report = into([path], Selection(8, 96, 128, fps=6, windows=2), variants=variants([0.5], mirror=True))
    assert [(o.variant, round(o.start, 2), round(o.end, 2)) for o in report.outcomes] == [
        ("", 0, 1.33), ("speed-0.5", 0, 0.67), ("mirror", 0, 1.33),
        ("", 1.33, 2.67), ("speed-0.5", 1.33, 2.0), ("mirror", 1.33, 2.67),
    ]  # fmt: skip
    warnings = {o.variant: o.warnings for o in report.outcomes}
    assert warnings[""] == warnings["mirror"] == []
    assert warnings["speed-0.5"] == ["4 of 8 frames repeat: the source has 6 fps, but 12 are requested"]


def test_a_caption_too_long_with_its_words_refuses_that_variant(into, long):
    report = into([long], caption="x" * 1995, variants=variants(mirror=True))
    assert [o.status for o in report.outcomes] == ["accepted", "refused"]
    assert "the caption has 2004 characters, at most 2000" in report.outcomes[1].reason


# ------------------------------------------------------------------------------ the commands
def ingest_command(*arguments):
    return command(motiondirector.commands.ingest, "ingest", *arguments)


GIVEN = (
    "--concept",
    "slide",
    "--caption",
    "it slides",
    "--frames",
    8,
    "--height",
    96,
    "--width",
    128,
    "--fps",
    6,
)


def test_the_tables_name_each_variant_and_its_clip(long, tmp_path):
    given = (
        long,
        *GIVEN,
        "--to",
        tmp_path / "set",
        "--windows",
        1,
        "--reverse",
        "--speed",
        0.5,
        "--words",
        "reverse=backwards",
    )
    code, output = ingest_command(*given)
    assert code == 0, output
    original = by_variant(tmp_path)[""].clip_id[:12]
    for said in ("3 accepted", f"reverse of {original}", f"speed-0.5 of {original}", "it slides backwards"):
        assert said in output
    code, output = command(motiondirector.commands.clips, "clips", "list", tmp_path / "set")
    assert code == 0, output
    for said in (f"reverse of {original}", f"speed-0.5 of {original}", "it slides slowly"):
        assert said in output
    code, output = command(motiondirector.commands.clips, "clips", "list", tmp_path / "set", "--json")
    rows = {row["variant"]: row for row in json.loads(output)}
    assert rows["reverse"]["variant_of"] == rows[None]["clip_id"]
    assert rows[None]["mask"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--speed", 3), "expected a speed from 0.5 to 2"),
        (("--speed", 0.2), "expected a speed from 0.5 to 2"),
        (("--speed", 1), "other than 1"),
        (("--speed", "fast"), "--speed"),
        (("--speed", 2, "--speed", 2), "speed-2 is given twice"),
        (("--words", "reverse=x"), "there are words for 'reverse', and the variants are none"),
        (("--reverse", "--words", "backwards"), "expected VARIANT=WORDS"),
        (("--reverse", "--words", "reverse=a", "--words", "reverse=b"), "each variant once"),
    ],
)
def test_wrong_options_are_exit_2_in_one_sentence_and_leave_nothing(long, tmp_path, options, says):
    code, output = ingest_command(long, *GIVEN, "--to", tmp_path / "set", *options)
    assert code == 2
    assert says in output
    assert not (tmp_path / "set").exists()


def test_variants_are_settings_in_python_too():
    config = IngestConfig(speed=0.5, reverse=True, words={"reverse": "backwards"})
    assert [(one.name, one.words) for one in config.variants] == [
        ("speed-0.5", "slowly"),
        ("reverse", "backwards"),
    ]
    with pytest.raises(ValueError, match="expected a speed"):
        IngestConfig(speed=[0.1])
