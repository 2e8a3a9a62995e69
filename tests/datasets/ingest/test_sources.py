"""Every input has its line, whatever its name is and whatever stands at it; lists name files as people write them."""

import os
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.select import Selection
from datasets.ingest.local import ingest
from datasets.ingest.sources import Captions, expand
from infra.errors import UserError
from infra.paths import as_written, expanded
from infra.storage import open_storage

CLIPS = Path(__file__).resolve().parents[3] / "assets" / "clips"
FOX, CAR = CLIPS / "fox_running.mp4", CLIPS / "car_turning.mp4"
SMALL = Selection(frames=8, height=64, width=64, fps=8)


def listed(*given):
    """name -> problem, of what `given` comes to."""
    found = expand(map(str, given))
    assert len({source.uri for source in found}) == len(found)
    return {Path(source.uri).name: source.problem for source in found}


def ingested(given, to, **options):
    return ingest(
        expand(map(str, given)),
        SMALL,
        open_storage(to),
        **{"concept": "x", "caption": "default words", **options},
    )


def test_links_are_followed_once_and_broken_ones_have_a_line(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    for path in (inside / "a.mp4", outside / "b.mp4"):
        path.write_bytes(b"video")
    (inside / "linked").symlink_to(outside)
    (inside / "again").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "broken.mp4").symlink_to("/nonexistent.mp4")
    (inside / "itself.mp4").symlink_to(inside / "itself.mp4")
    found = listed(inside)
    assert found.keys() == {"a.mp4", "b.mp4", "broken.mp4", "itself.mp4", "linked", "loop"}
    assert found["a.mp4"] is found["b.mp4"] is None
    assert "a link to /nonexistent.mp4, which does not exist" in found["broken.mp4"]
    assert "symbolic links" in found["itself.mp4"]
    assert "which is already read" in found["loop"]
    assert "does not exist" in listed(inside / "broken.mp4")["broken.mp4"]
    assert "does not exist" in listed(f"{inside}/b*.mp4")["broken.mp4"]
    assert listed(f"{tmp_path}/out*") == {
        "b.mp4": None
    }  # a pattern that matches a folder means what is in it


def test_what_is_no_regular_file_and_what_no_path_can_be_have_a_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert listed(tmp_path) == {"pipe.mp4": "not a regular file"}
    assert listed(tmp_path / "pipe.mp4") == {"pipe.mp4": "not a regular file"}
    assert "does not exist" in listed("x" * 5000)["x" * 5000]
    assert "does not exist" in expand(["a\x00b.mp4"])[0].problem
    (tmp_path / "list.json").write_text("[]")
    assert "give a list of videos as one of .csv" in listed(tmp_path / "list.json")["list.json"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes only UTF-8 names")
def test_a_name_that_is_not_utf8_is_refused_and_ends_nothing(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(FOX, os.fsencode(folder) + b"/caf\xe9.mp4")
    shutil.copy(CAR, folder / "car.mp4")
    report = ingested([folder], tmp_path / "set")
    assert [(Path(o.source).name, o.status) for o in report.outcomes] == [
        ("caf\\xe9.mp4", "refused"),
        ("car.mp4", "accepted"),
    ]
    assert "not UTF-8" in report.outcomes[0].reason
    assert str(report.as_json()).encode()


def test_names_that_begin_with_a_tilde_are_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOX, "~clip.mp4")
    Path("list.csv").write_text("file\n~clip.mp4\n")
    for given in ("~clip.mp4", "./~clip.mp4", "list.csv"):
        (found,) = expand([given])
        assert (found.uri, found.problem) == (str(tmp_path / "~clip.mp4"), None)
    assert ingested(["~clip.mp4"], "~set").count("accepted") == 1
    assert len(read_clips("~set")) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a") == tmp_path / "a"


def test_a_list_may_have_back_slashes_and_the_other_form_of_unicode(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    folder = tmp_path / "sub" / decomposed
    folder.mkdir(parents=True)
    shutil.copy(FOX, folder / f"{decomposed}.mp4")
    (tmp_path / "list.csv").write_text(f"file,caption\nsub\\{composed}\\{composed}.mp4,the right words\n")
    (found,) = expand([str(tmp_path / "list.csv")])
    assert (Path(found.uri).name, found.problem) == (f"{decomposed}.mp4", None)
    assert Captions(str(tmp_path / "list.csv")).get(found.uri) == "the right words"
    assert Captions(str(tmp_path / "list.csv")).unused([found]) == []
    assert expand([f"{tmp_path}\\sub\\{composed}\\{composed}.mp4"])[0].problem is None
    (tmp_path / "odd\\name").write_text("x")  # the very name comes first
    assert as_written(tmp_path / "odd\\name").name == "odd\\name"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,text\nfox.mp4,a fox\n", "no column `caption` among file, text"),
        ("file,caption,concept\nfox.mp4,a fox,run\n", "unknown column 'concept'"),
        ("file,caption\nfox.mp4,\n", "line 2: no `caption`"),
        ("file,caption\nfox.mp4,a red fox, running fast\n", "line 2: 3 cells; the header has 2"),
        (
            "file,caption\nfox.mp4,a\nfox.mp4,b\n",
            "line 3: fox.mp4 has a different caption in an earlier line",
        ),
    ],
)
def test_a_list_of_captions_that_would_be_cut_or_dropped_is_refused(tmp_path, text, says):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=says) as refused:
        Captions(str(tmp_path / "list.csv"))
    assert refused.value.code == "invalid_manifest"


def test_a_wrong_value_in_a_manifest_is_the_problem_of_its_row(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d").mkdir()
    rows = [
        "file\tconcept\tstart",
        "a.mp4\tTwo Words\t",
        "b.mp4\trun\tlater",
        "c.mp4\trun\t1.5",
        "d\trun\t",
        "e.mp4\trun\t",
    ]
    (tmp_path / "list.tsv").write_text("\n".join(rows))
    found = expand([str(tmp_path / "list.tsv")])
    assert "line 2 of" in found[0].problem
    assert "start 'later' in line 3 of" in found[1].problem
    assert (found[2].problem, found[2].concept, found[2].start) == (None, "run", 1.5)
    assert "a folder, not a video; check line 5 of" in found[3].problem
    assert "does not exist; check line 6 of" in found[4].problem


def test_any_key_of_s3_is_read_and_one_that_is_gone_ends_nothing(tmp_path, s3):
    from infra.storage import bucket_and_key

    storage, base = bucket_and_key(f"{s3.uri}/odd-{tmp_path.name}")
    bucket = storage.uri
    keys = [f"{base}//twice.mp4", f"{base}/sub\\clip.mp4", f"{base}/good.mp4", f"{base}/../up.mp4"]
    for key, path in zip(keys, sorted(CLIPS.glob("*.mp4")), strict=True):
        storage.client.put_object(Bucket=storage.bucket, Key=key, Body=path.read_bytes())
    report = ingested([f"{bucket}/{base}/"], tmp_path / "set")
    assert {o.source: o.status for o in report.outcomes} == {f"{bucket}/{key}": "accepted" for key in keys}
    assert {clip.source_uri for clip in read_clips(tmp_path / "set")} == {f"{bucket}/{key}" for key in keys}
    # a list on S3 may name them, with either separator
    storage.client.put_object(
        Bucket=storage.bucket,
        Key=f"{base}/list.csv",
        Body=b"file\nsub\\clip.mp4\n/twice.mp4\n..\\good.mp4\nno.mp4\n",
    )
    report = ingested([f"{bucket}/{base}/list.csv"], tmp_path / "set")
    assert [o.status for o in report.outcomes] == ["duplicate", "duplicate", "refused", "refused"]
    assert "does not exist" in report.outcomes[3].reason
