"""Videos become a clip set; every input is accounted for, and bad ones are refused in a sentence."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from sample_videos import moving_picture, turn, write_animation, write_sound, write_video
from typer.testing import CliRunner

import motiondirector.commands.ingest
from datasets.clip_sets.clips import concepts_in, read_clips
from datasets.clip_sets.select import Selection
from datasets.ingest.local import ingest
from datasets.ingest.sources import Captions, expand
from datasets.video.decode import decode
from infra.errors import Forbidden, InvalidInput, NotFound, UserError
from infra.storage import open_storage

SMALL = Selection(frames=8, height=96, width=128, fps=6)


@pytest.fixture
def into(tmp_path):
    """`into(sources, selection=..., ...)` -> report, into the folder `tmp_path / "set"`."""

    def run(sources, selection=SMALL, **options):
        options = {"concept": "slide", "caption": "a texture slides"} | options
        return ingest(expand([str(s) for s in sources]), selection, open_storage(tmp_path / "set"), **options)

    return run


def test_a_clip_is_what_its_row_says(into, make_video, tmp_path):
    path = make_video("a.mp4", num_frames=36, height=200, width=300, fps=12, options={"crf": "1"})
    report = into([path])
    assert [outcome.status for outcome in report.outcomes] == ["accepted"]
    (clip,) = read_clips(tmp_path / "set")
    assert (clip.concept, clip.caption, clip.source_uri) == ("slide", "a texture slides", str(path))
    frames = clip.frames_FHWC()
    assert frames.shape == (clip.num_frames, clip.height, clip.width, 3) == (8, 96, 128, 3)
    video = decode(clip.video)
    assert video.fps == clip.fps == 6
    # every second source frame, scaled and cropped about the middle
    source = moving_picture(36, 200, 300)[::2][:8].astype(float)
    middle = frames[:, 40:56, 56:72].astype(float).mean((1, 2))
    expected = source[:, 84:116, 134:166].mean((1, 2))
    assert np.abs(middle - expected).max() < 12


ORDINARY = {
    "phone.mp4": {"fps": 30},
    "old.avi": {"codec": "mpeg4", "fps": 25},
    "web.webm": {"codec": "libvpx-vp9", "fps": 24},
    "camera.mov": {"codec": "mjpeg", "pixels": "yuvj420p", "fps": 15},
    "disc.mkv": {"fps": 24},
    "meme.gif": {"duration_ms": 80},
    "anim.webp": {"duration_ms": 66},
}


def test_ordinary_videos_of_any_format_rate_and_length_are_accepted_unprepared(into, make_video, tmp_path):
    paths = [
        make_video(f"in/{n}", num_frames=70, height=182, width=322, seed=i, **ORDINARY[n])
        for i, n in enumerate(ORDINARY)
    ]
    turn(make_video("in/upright.mp4", num_frames=70, height=182, width=322, seed=50), 90)
    make_video("in/twenty_seconds.mp4", num_frames=200, height=182, width=322, seed=51, fps=10)
    report = into([tmp_path / "in"])
    assert {Path(o.source).name: (o.status, o.reason) for o in report.outcomes} == dict.fromkeys(
        [*(p.name for p in paths), "upright.mp4", "twenty_seconds.mp4"], ("accepted", "")
    )
    for clip in read_clips(tmp_path / "set", "slide"):
        frames = clip.frames_FHWC()
        assert frames.shape == (8, 96, 128, 3)
        assert np.abs(np.diff(frames.astype(float), axis=0)).mean() > 1  # it moves


def test_a_long_video_gives_one_clip_or_all_of_them_one_after_another(into, make_video, tmp_path):
    path = make_video("long.mp4", num_frames=100, fps=12)
    assert len(into([path]).outcomes) == 1
    report = into([path], Selection(8, 96, 128, fps=6, windows=None), concept="all")
    # 100 frames at 12 fps are 50 at 6: six windows of 8
    assert [round(o.start * 6) for o in report.outcomes] == [0, 8, 16, 24, 32, 40]
    assert concepts_in(tmp_path / "set") == {"all": 6, "slide": 1}
    two = into([path], Selection(8, 96, 128, fps=6, windows=2), concept="two").outcomes
    assert [(round(o.start, 2), round(o.end, 2)) for o in two] == [(0.0, 1.33), (1.33, 2.67)]
    assert round(report.outcomes[-1].length, 2) == 8.33
    later = into([path], Selection(8, 96, 128, fps=6, start=2.0), concept="later")
    assert later.outcomes[0].start == 2.0


def test_the_same_clips_again_add_nothing_and_say_so(into, make_video, tmp_path):
    path = make_video("a.mp4")
    first = into([path])
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "set").rglob("*") if p.is_file())
    copy = tmp_path / "renamed.mp4"
    copy.write_bytes(path.read_bytes())
    report = into([path, copy], caption="other words")
    assert [o.status for o in report.outcomes] == ["duplicate", "duplicate"]
    assert "a texture slides" in report.outcomes[0].reason
    assert {o.clip_id for o in report.outcomes} == {first.outcomes[0].clip_id}
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "set").rglob("*") if p.is_file()) == before
    # the same video may show another concept
    assert into([path], concept="other").count("accepted") == 1


def test_what_the_set_has_is_not_decoded_again(into, make_video, monkeypatch):
    path = make_video("a.mp4")
    into([path])

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr("datasets.ingest.process.cut", never)
    assert into([path]).count("duplicate") == 1


def test_one_file_twice_in_one_run_is_one_clip(into, make_video, tmp_path):
    path = make_video("a.mp4")
    report = into([path, path])
    assert [o.status for o in report.outcomes] == ["accepted", "duplicate"]
    assert len(read_clips(tmp_path / "set")) == 1


def bad_inputs(tmp_path, make_video) -> dict[str, tuple[Path, str]]:
    """name -> (file, what the refusal says)."""
    folder = tmp_path / "bad"
    folder.mkdir()
    text, empty, cut = folder / "text.mp4", folder / "empty.mp4", folder / "cut.mp4"
    text.write_text("no video at all\n" * 50)
    empty.touch()
    cut.write_bytes(make_video("whole.mp4").read_bytes()[:-3000])
    return {
        "missing": (folder / "missing.mp4", "does not exist"),
        "text": (text, "not a readable video"),
        "empty": (empty, "0 bytes"),
        "truncated": (cut, "truncated"),
        "one frame": (write_video(folder / "one.mp4", moving_picture(1, 180, 320)), "single frame"),
        "too short": (write_video(folder / "short.mp4", moving_picture(10, 180, 320)), "too short"),
        "too small": (write_video(folder / "small.mp4", moving_picture(24, 64, 64)), "too small"),
        "sound": (write_sound(folder / "sound.mp4"), "only audio"),
        "still": (write_still(folder / "still.webp"), "single frame"),
        "unknown codec": (write_unknown_codec(folder / "new.mkv"), "codec that FFmpeg does not know"),
        "huge by its header": (write_huge(folder / "huge.gif"), "larger than 8192x8192"),
    }


def write_unknown_codec(path: Path) -> Path:
    """Matroska names its codecs in words, and this word is nobody's."""
    data = write_video(path, moving_picture(24, 180, 320)).read_bytes()
    assert data.count(b"V_MPEG4/ISO/AVC") == 1
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/ABC"))
    return path


def write_huge(path: Path) -> Path:
    """A GIF of a few bytes that says it is 20000x20000."""
    data = bytearray(write_animation(path, moving_picture(2, 16, 16)).read_bytes())
    data[6:10] = struct.pack("<2H", 20_000, 20_000)
    path.write_bytes(data)
    return path


def write_still(path: Path) -> Path:
    from PIL import Image

    Image.fromarray(moving_picture(1, 180, 320)[0]).save(path)
    return path


def test_each_bad_input_is_refused_with_its_reason_and_the_good_one_is_stored(into, make_video, tmp_path):
    bad = bad_inputs(tmp_path, make_video)
    good = make_video("good.mp4")
    report = into([*(path for path, _ in bad.values()), good])
    for outcome, (path, reason) in zip(report.outcomes, bad.values(), strict=False):
        assert (outcome.source, outcome.status) == (str(path), "refused")
        assert reason in outcome.reason
        assert "\n" not in outcome.reason
    assert report.outcomes[-1].status == "accepted"
    assert len(read_clips(tmp_path / "set")) == 1


def test_strict_stores_all_or_nothing(into, make_video, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no")
    report = into([make_video("good.mp4"), bad], strict=True)
    assert report.count("accepted") == 0
    assert not (tmp_path / "set").exists()
    assert into([make_video("good.mp4")], strict=True).count("accepted") == 1


def test_damage_refuses_the_windows_it_touches_and_no_wrong_frame_is_stored(into, tmp_path):
    whole = write_video(
        tmp_path / "whole.mp4", moving_picture(48, 96, 128), fps=6, options={"g": "8", "bf": "0"}
    )
    with av.open(str(whole)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(whole.read_bytes())
    for position, size in packets[16:24]:  # the third window
        data[position + 8 : position + size] = bytes(size - 8)
    scratched = tmp_path / "scratched.mp4"
    scratched.write_bytes(data)
    report = into([scratched], Selection(8, 96, 128, fps=6, windows=None))
    assert [o.status for o in report.outcomes][:3] == ["accepted", "accepted", "refused"]
    assert "damaged" in report.outcomes[2].reason
    original = decode(whole).frames_FHWC.astype(float)
    starts = {o.clip_id: round(o.start * 6) for o in report.outcomes}
    for clip in read_clips(tmp_path / "set"):
        start = starts[clip.clip_id]
        assert np.abs(clip.frames_FHWC() - original[start : start + 8]).mean() < 3


def test_an_8k_video_is_read_in_bounded_memory(tmp_path):
    """7680x4320: one decoded frame is 100 MB, the 12 of the clip are 1.2 GB."""
    path = write_video(
        tmp_path / "8k.mp4",
        np.broadcast_to(moving_picture(1, 4320, 7680), (13, 4320, 7680, 3)),
        options={"preset": "ultrafast", "tune": "zerolatency"},
    )
    script = f"""
import resource
from datasets.ingest.local import ingest; from datasets.clip_sets.select import Selection
from datasets.ingest.sources import expand; from infra.storage import open_storage
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = ingest(expand([{str(path)!r}]), Selection(12, 256, 256, fps=12), open_storage({str(tmp_path / "set")!r}), concept="big", caption="big")
print(report.outcomes[0].status, report.outcomes[0].reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told[0] == "accepted", told
    assert int(told[-1]) < 900, f"{told[-1]} MB"


def test_odd_sides_and_oblong_pixels_are_cropped_right(into, make_video, tmp_path):
    assert into([make_video("odd.webm", height=181, width=321, codec="libvpx-vp9")]).count("accepted") == 1
    assert read_clips(tmp_path / "set")[0].frames_FHWC().shape == (8, 96, 128, 3)


def test_frames_that_repeat_and_scene_cuts_are_warned_about(into, tmp_path):
    slow = write_video(tmp_path / "slow.mp4", moving_picture(10, 180, 320), fps=3)
    cut = np.concatenate([moving_picture(8, 180, 320, seed=1), moving_picture(16, 180, 320, seed=2)])
    cut = write_video(tmp_path / "cut.mp4", cut, fps=6)
    calm = write_video(tmp_path / "calm.mp4", moving_picture(24, 180, 320, step=12), fps=6)
    report = into([slow, cut, calm], Selection(12, 96, 128, fps=6))
    assert [o.status for o in report.outcomes] == ["accepted"] * 3
    assert "frames repeat" in report.outcomes[0].warnings[0]
    assert report.outcomes[1].warnings == ["scene cut inside the clip at 1.3 s"]
    assert report.outcomes[2].warnings == []


def test_captions_come_from_the_file_the_manifest_or_the_option(into, make_video, tmp_path):
    for i, name in enumerate(["a.mp4", "b.mp4", "c.mp4"]):
        make_video(f"in/{name}", seed=i)
    (tmp_path / "captions.csv").write_text(
        'file,caption\na.mp4,"a fox, running"\nin/b.mp4,a bear\nz.mp4,nobody\n'
    )
    report = into([tmp_path / "in"], captions=Captions(str(tmp_path / "captions.csv")), caption=None)
    assert [(o.status, o.caption) for o in report.outcomes] == [
        ("accepted", "a fox, running"),
        ("accepted", "a bear"),
        ("refused", ""),
    ]
    assert "empty caption" in report.outcomes[2].reason
    assert any("z.mp4" in warning for warning in report.warnings)
    rows = [
        {"file": "in/c.mp4", "caption": "a cat", "concept": "sit", "start": 0.5},
        {"file": "in/a.mp4", "concept": "sit"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    report = into([tmp_path / "list.jsonl"], caption="something")
    assert [(o.concept, o.caption, o.start) for o in report.outcomes] == [
        ("sit", "a cat", 0.5),
        ("sit", "something", 0.0),
    ]


@pytest.mark.parametrize("start", ["-1", "nan", "inf", "soon"])
def test_a_start_that_is_none_refuses_its_row_of_the_manifest_and_no_other(into, make_video, tmp_path, start):
    for name in ("a.mp4", "b.mp4"):
        make_video(name)
    (tmp_path / "list.csv").write_text(f"file,start\na.mp4,{start}\nb.mp4,0.5\n")
    bad, good = into([tmp_path / "list.csv"]).outcomes
    assert (bad.status, good.status) == ("refused", "accepted")
    assert f"start {start!r} in line 2" in bad.reason


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("l.jsonl", '{"file": "a.mp4"}\n\n{"file": \n', "line 3: not JSON"),
        ("l.jsonl", '{"file": "a.mp4"}\n["b.mp4"]\n', "line 2: .*b.mp4.* is not an object"),
        ("l.jsonl", '{"file": "a.mp4"}\n{"caption": "b"}\n', "line 2: no `file`"),
        ("l.csv", "video,caption\na.mp4,b\n", "line 1: no column `file` among video, caption"),
        ("l.csv", 'file,caption\na.mp4,"b\nc"\n,d\n', "line 4: no `file`"),
        ("l.csv", "", "line 1: no column `file` among nothing"),
        ("l.jsonl", "\n", "no row"),
        ("l.csv", b"file\n\xff\n", "byte 5 is not UTF-8"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_said_with_its_line(tmp_path, name, text, says):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says) as told:
        expand([str(tmp_path / name)])
    assert told.value.code == "invalid_manifest"


def test_json_may_hold_other_separators_of_lines(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"file": "a.mp4", "caption": "one\u2028two"}\n', encoding="utf-8")
    (found,) = expand([str(tmp_path / "l.jsonl")])
    assert found.caption == "one\u2028two"


@pytest.mark.parametrize("given", ["in", "in/a.mp4", "in/*.mp4", "list.csv", "./in/../in"])
def test_a_source_is_the_same_file_from_wherever_it_is_read(make_video, tmp_path, monkeypatch, given):
    path = make_video("in/a.mp4")
    (tmp_path / "list.csv").write_text("file\nin/a.mp4\n")
    monkeypatch.chdir(tmp_path)
    (found,) = expand([given])
    monkeypatch.chdir("/")  # where a worker stands
    assert Path(found.uri).samefile(path)
    assert found.problem is None


def test_every_file_of_a_folder_is_accounted_for(into, make_video, tmp_path):
    make_video("in/a.mp4")
    (tmp_path / "in" / "notes.txt").write_text("x")
    report = into([tmp_path / "in", str(tmp_path / "in" / "*.mp4"), str(tmp_path / "none*"), "ftp://x/y.mp4"])
    assert [o.status for o in report.outcomes] == ["accepted", "ignored", "duplicate", "refused", "refused"]


def test_s3_sources_and_an_s3_set(make_video, tmp_path, s3):
    store = open_storage(f"{s3.uri}/videos-{tmp_path.name}")
    store.put_file("deep/a.mp4", make_video("a.mp4"))
    store.put_file("deep/b.mp4", make_video("b.mp4", seed=1))
    store.put("deep/notes.txt", b"x")
    store.put("deep/list.csv", b"file,caption\na.mp4,from the manifest\n")
    target = open_storage(f"{s3.uri}/set-{tmp_path.name}")

    def run(*given, **options):
        return ingest(expand(given), SMALL, target, **{"concept": "slide", "caption": "it slides"} | options)

    report = run(f"{store.uri}/deep")
    assert [(o.source.rpartition("/")[2], o.status) for o in report.outcomes] == [
        ("a.mp4", "accepted"),
        ("b.mp4", "accepted"),
        ("list.csv", "ignored"),
        ("notes.txt", "ignored"),
    ]
    assert run(f"{store.uri}/deep/a.mp4", f"{store.uri}/dee*.mp4").count("duplicate") == 3
    assert run(f"{store.uri}/deep/list.csv", concept="listed").outcomes[0].caption == "from the manifest"
    assert run(f"{store.uri}/nothing").outcomes[0].status == "refused"
    assert concepts_in(target.uri) == {"listed": 1, "slide": 2}
    assert all(clip.frames_FHWC().shape == (8, 96, 128, 3) for clip in read_clips(target.uri))
    with pytest.raises((Forbidden, NotFound)):
        run("s3://no-such-bucket-here/videos")


@pytest.mark.parametrize("name", ["../up", "a/b", "two words", "ｆｏｘ", "x" * 10_000, "", "Fox\u202e"])
def test_a_concept_name_that_is_none_is_refused_before_anything_is_read(into, make_video, name, tmp_path):
    with pytest.raises(InvalidInput) as told:
        into([make_video("a.mp4")], concept=name)
    assert len(told.value.message) < 400
    assert not (tmp_path / "set").exists()


# --- the command -----------------------------------------------------------------------------------------------


def command(*arguments) -> tuple[int, str]:
    """Exit code and stdout of `motiondirector ingest ...`; a UserError is exit code 2, as in cli.main."""
    app = typer.Typer()
    motiondirector.commands.ingest.register(app)
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, UserError):
        return 2, result.output + result.exception.message
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


SIZE = ("--frames", 8, "--height", 96, "--width", 128, "--fps", 6)


def test_the_command_prints_every_input_and_stores_the_good_ones(make_video, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no")
    given = (
        make_video("good.mp4"),
        bad,
        "--concept",
        "slide",
        "--caption",
        "it slides",
        "--to",
        tmp_path / "set",
    )
    code, output = command(*given, *SIZE)
    assert code == 0
    assert "good.mp4" in output
    assert "bad.mp4" in output
    assert "1 accepted, 1 refused" in output
    assert "cut to 8x96x128" in output
    code, output = command(*given, *SIZE, "--json")
    assert code == 0
    assert json.loads(output)["duplicate"] == 1
    assert json.loads(output)["size"] == {"frames": 8, "height": 96, "width": 128, "foundation": None}


def test_up_to_four_clips_of_a_video_are_used_and_the_table_says_which_seconds(make_video, tmp_path):
    video = make_video("long.mp4", num_frames=100, fps=12)
    given = (video, "--concept", "a", "--caption", "b", *SIZE)
    code, output = command(*given, "--to", tmp_path / "four")
    assert code == 0
    assert "4 accepted" in output
    for used in ("0.00-1.33 of", "1.33-2.67 of", "4.00-5.33 of"):
        assert used in output
    assert "1 input continues after the last clip; --windows all uses the rest" in output
    for windows, count in (("1", 1), ("all", 6)):
        code, output = command(*given, "--windows", windows, "--to", tmp_path / windows, "--json")
        assert json.loads(output)["accepted"] == count


def test_words_beyond_the_text_encoder_are_named(make_video, tmp_path):
    caption = "a red square on a navy background " + "that moves along a wide path " * 6 + "in a green forest"
    given = (
        make_video("a.mp4"),
        "--concept",
        "a",
        "--caption",
        caption,
        "--to",
        tmp_path / "set",
        *SIZE,
        "--json",
    )
    for _ in ("accepted", "duplicate"):
        code, output = command(*given)
        assert code == 0
        (outcome,) = json.loads(output)["inputs"]
        (warning,) = outcome["warnings"]
        assert "sprites reads only the first 30 tokens of the caption" in warning
        assert warning.endswith("in a green forest'")


def test_nothing_accepted_is_exit_2_and_leaves_nothing(make_video, tmp_path):
    for path, reason in bad_inputs(tmp_path, make_video).values():
        code, output = command(path, "--concept", "a", "--caption", "b", "--to", tmp_path / "set", *SIZE)
        assert code == 2
        assert reason in output
    code, output = command(make_video("good.mp4"), "--concept", "a", "--to", tmp_path / "set", *SIZE)
    assert code == 2
    assert "empty caption" in output
    code, output = command(
        make_video("good.mp4"), "--concept", "../a", "--caption", "b", "--to", tmp_path / "set", *SIZE
    )
    assert code == 2
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--frames", 1),
        ("--frames", -3),
        ("--height", 97),
        ("--width", 0),
        ("--fps", -1),
        ("--start", -1),
        ("--windows", 0),
        ("--windows", "some"),
        ("--address", "x:1"),
    ],
)
def test_impossible_selections_are_refused(make_video, tmp_path, wrong):
    given = ("--concept", "a", "--caption", "b", "--to", tmp_path / "set")
    code, _ = command(make_video("good.mp4"), *given, *SIZE, *wrong)
    assert code == 2
    assert not (tmp_path / "set").exists()


def test_a_foundation_gives_the_size_and_refuses_one_that_does_not_suit(make_video, tmp_path):
    path = make_video("a.mp4", num_frames=60, height=200, width=200, fps=12)
    given = (
        path,
        "--concept",
        "a",
        "--caption",
        "b",
        "--to",
        tmp_path / "set",
        "--foundation",
        "tiny-random:wan",
    )
    code, output = command(*given, *SIZE)  # 8 frames are not 4n + 1
    assert code == 2
    assert "multiple" in output
    code, output = command(*given, "--frames", 9, "--height", 64, "--width", 64)
    assert code == 0
    assert "cut to 9x64x64 (frames, height, width) for tiny-random-wan" in output
    assert read_clips(tmp_path / "set")[0].num_frames == 9


def test_the_clips_that_the_repository_ships_are_accepted_with_their_captions(tmp_path):
    clips = Path(__file__).resolve().parents[3] / "assets" / "clips"
    given = (
        clips / "*.mp4",
        "--captions",
        clips / "captions.csv",
        "--concept",
        "mixed",
        "--to",
        tmp_path / "set",
    )
    size = ("--frames", 16, "--height", 256, "--width", 256, "--fps", 8, "--windows", 1, "--strict", "--json")
    code, output = command(*given, *size)
    assert code == 0, output
    report = json.loads(output)
    assert (report["accepted"], report["warnings"]) == (4, [])
    warnings = [warning for outcome in report["inputs"] for warning in outcome["warnings"]]
    assert all("; ignored: " in warning for warning in warnings)  # for the embedded model one is too long
    assert sum(path.stat().st_size for path in clips.iterdir()) < 5_000_000
