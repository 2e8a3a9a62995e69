"""The manifest: three formats and a clip set say the same, and everything wrong is said at once, with its line."""

import json

import pytest
from clip_sets import sliding_clips, write_set

from infra.errors import UserError
from training.batch.manifest.entries import Mistakes, parse_entries, read_manifest

YAML = """\
defaults:
  data: clips
  rank: 16
concepts:
  - orbit
  - concept: wave
    steps: 500
    priority: 2
    publish-as: wave-long
  - {concept: spin, data: s3://bucket/more, learning-rate: 1e-3, workers: "1:4"}
"""
JSONL = "\n".join(
    [
        json.dumps({"concept": "orbit", "data": "clips", "rank": 16}),
        "",
        json.dumps(
            {
                "concept": "wave",
                "data": "clips",
                "rank": 16,
                "steps": 500,
                "priority": 2,
                "publish_as": "wave-long",
            }
        ),
        json.dumps(
            {
                "concept": "spin",
                "data": "s3://bucket/more",
                "rank": 16,
                "learning-rate": 1e-3,
                "workers": "1:4",
            }
        ),
    ]
)
CSV = """\
concept,data,rank,steps,priority,publish_as,learning_rate,workers
orbit,clips,16,,,,,
wave,clips,16,500,2,wave-long,,
spin,s3://bucket/more,16,,,,1e-3,1:4
"""


@pytest.mark.parametrize(
    ("text", "kind", "lines"),
    [(YAML, ".yaml", (5, 6, 10)), (JSONL, ".jsonl", (1, 3, 4)), (CSV, ".csv", (2, 3, 4))],
    ids=["yaml", "jsonl", "csv"],
)
def test_three_formats_say_the_same(text, kind, lines):
    from training.config import make_config

    (orbit, wave, spin), wrong = parse_entries(text, kind)
    assert wrong == []
    assert (orbit.concept, orbit.data, orbit.name, orbit.priority) == ("orbit", "clips", "orbit", 0)
    assert (wave.name, wave.priority, wave.concept) == ("wave-long", 2, "wave")
    assert spin.data == "s3://bucket/more"
    assert make_config(orbit.settings) == make_config({"rank": 16})
    assert make_config(wave.settings) == make_config({"rank": 16, "steps": 500})
    assert make_config(spin.settings) == make_config({"rank": 16, "learning_rate": 1e-3, "workers": "1:4"})
    assert (orbit.line, wave.line, spin.line) == lines


def mistakes(text, kind, **defaults):
    _, wrong = parse_entries(text, kind, defaults)
    assert wrong
    told = Mistakes("batch.file", wrong)
    assert told.message.startswith(f"batch.file has {len(told.mistakes)} mistake")
    assert all(str(mistake) in told.message for mistake in told.mistakes)
    return [(mistake.line, mistake.text) for mistake in told.mistakes]


def holds(found, *expected):
    assert [line for line, _ in found] == [line for line, _ in expected], found
    for (_, text), (_, words) in zip(found, expected, strict=True):
        assert words in text
        assert "\n" not in text


def test_all_mistakes_of_a_yaml_file_come_in_one_list():
    text = """\
extra: 1
defaults: {rank: 16}
concepts:
  - concept: orbit
    data: clips
    steps: -5
    stepz: 4
  - concept: ../up
    data: ftp://x
    timestep_low: 0.9
    timestep_high: 0.2
  - concept: fine
    data: clips
  - concept: fine
    data: clips
    priority: soon
  - [a, b]
  - data: 5
    concept: x
    rank: 2
    rank: 3
"""
    holds(
        mistakes(text, ".yaml"),
        (1, "unknown key 'extra'"),
        (6, "steps -5"),
        (7, "unknown training setting 'stepz'"),
        (8, "concept name '../up'"),
        (8, "timestep_low 0.9 must be below timestep_high 0.2"),
        (9, "unknown scheme ftp://"),
        (14, "fine appears twice (first on line 12)"),
        (16, "priority 'soon'"),
        (17, "concept is missing"),
        (17, "data is missing"),
        (17, "expected a concept's name"),
        (18, "data '5': expected text"),
        (21, "rank appears twice"),
    )


def test_a_wrong_default_is_said_once_where_it_stands():
    text = "defaults:\n  data: clips\n  rank: 0\nconcepts: [a, b, c]\n"
    holds(mistakes(text, ".yaml"), (3, "defaults: rank 0"))
    holds(mistakes("- a\n- b\n", ".yaml", data="clips", rank=0), (0, "defaults: rank 0"))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("concepts: [a\n", ".yaml", [(2, "not YAML")]),
        ("concepts:\n- concept: a\n  data: 2023-99-99\n", ".yaml", [(0, "not YAML: month must be in 1..12")]),
        ("concepts: {a: 1}\n", ".yaml", [(1, "expected a list")]),
        ("other: 1\n", ".yaml", [(1, "`concepts:` is missing"), (1, "unknown key 'other'")]),
        ("", ".yaml", [(0, "names no concept")]),
        ("- !!python/object/apply:os.system [echo]\n", ".yaml", [(1, "expected a concept's name")] * 1),
        ('{"concept": "a"\n[1]\n{"concept": "b", "data": "d", "seed": -1}\n', ".jsonl", None),
        (
            "concept,data,colour\na,clips,red\nb,clips\n",
            ".csv",
            [(1, "unknown column 'colour'"), (3, "2 cells")],
        ),
        ('concept,data\n"a,clips\n', ".csv", [(2, "not CSV")]),
    ],
)
def test_what_is_no_manifest_is_said_so(text, kind, expected):
    found = mistakes(text, kind)
    if expected is None:
        expected = [(1, "not JSON"), (2, "[1] is not an object; expected an object"), (3, "seed -1")]
    elif "python/object" in text:  # never run: without data and concept, and no such value
        assert found
        assert all(line == 1 for line, _ in found)
        return
    holds(found, *expected)


def test_the_command_lines_settings_are_defaults(tmp_path):
    (tmp_path / "batch.yml").write_text("- a\n- {concept: b, data: own, rank: 4}\n")
    one, two = read_manifest(
        str(tmp_path / "batch.yml"), {"data": "clips", "rank": 8, "foundation": "tiny-random:wan"}
    )
    assert (one.data, one.settings, one.foundation) == ("clips", {"rank": 8}, "tiny-random:wan")
    assert (two.data, two.settings) == ("own", {"rank": 4})
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(str(tmp_path / "absent.csv"))
    (tmp_path / "wrong.yml").write_text("- {concept: a}\n")
    with pytest.raises(Mistakes, match=r"wrong\.yml has 1 mistake"):
        read_manifest(str(tmp_path / "wrong.yml"))


def test_a_clip_set_is_a_manifest_of_all_its_concepts(tmp_path):
    uri = write_set(tmp_path / "clips", *sliding_clips("b", count=1), *sliding_clips("a", count=1))
    entries = read_manifest(uri, {"steps": 7})
    assert [(e.concept, e.data, e.settings) for e in entries] == [
        ("a", uri, {"steps": 7}),
        ("b", uri, {"steps": 7}),
    ]
    with pytest.raises(UserError, match="no clips at"):
        read_manifest(str(tmp_path / "nothing"))
