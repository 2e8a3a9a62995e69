"""The paper's sets, from miniatures with the layout of the originals."""

import csv

import pytest

from evaluation.paper_sets import UCF_ACTIONS, loveu_tgve, slug, ucf_sports
from evaluation.prompts import Prompt
from infra.errors import UserError
from infra.registry import check_concept_name

HEADER = [
    "Video name", "Our GT caption", "Style Change Caption", "Object Change Caption", "Background Change Caption",
    "Multiple Changes Caption",
]  # fmt: skip


def ucf(root, *clips):
    for clip in clips:
        path = root / "ucf_sports_actions" / "ucf action" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return root


def loveu(root, lines, videos):
    root.mkdir(parents=True, exist_ok=True)
    with (root / "LOVEU-TGVE-2023_Dataset.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    for video in videos:
        path = root / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return root


def captions(name):
    return [
        name,
        f"{name} moves",
        f"{name}, cartoon style",
        f"a cat like {name}",
        f"{name} in space",
        f"a cat in space like {name}",
    ]


@pytest.fixture
def tgve(tmp_path):
    lines = [
        HEADER, ["DAVIS Videos:"], captions("gold-fish"), captions("bus"), [], ["Youtube Videos:"],
        captions("aircraft landing"), [], ["Videvo Videos:"], captions("swans"),
    ]  # fmt: skip
    videos = [
        "DAVIS_480p/480p_videos/gold-fish.mp4", "youtube_480p/480p_videos/aircraft landing.mp4",
        "videvo_480p/480p_videos/swans.mp4",
    ]  # fmt: skip
    return loveu(tmp_path / "loveu-tgve-2023", lines, videos)


def test_clips_of_an_action_are_one_concept_with_six_prompts(tmp_path):
    root = ucf(
        tmp_path,
        "Diving-Side/001/a.avi",
        "Diving-Side/001/gt/a.txt",
        "Diving-Side/002/b.avi",
        "Walk-Front/001/c.avi",
    )
    (root / "ucf_sports_actions/ucf action/Walk-Front/002").mkdir()
    for given in (root, root / "ucf_sports_actions", root / "ucf_sports_actions" / "ucf action"):
        found = ucf_sports(given)
        assert [c.title for c in found.concepts] == ["Diving-Side", "Walk-Front"]
        diving = found.concepts[0]
        assert (diving.name, [p.name for p in diving.sources]) == ("ucf-diving-side", ["a.avi", "b.avi"])
        assert diving.caption == "an athlete is diving from a platform"
        assert len(diving.prompts) == 6
        assert diving.prompts[0] == "a panda is diving from a platform in a bamboo forest"
    assert any("Walk-Front/002 contains no video" in problem for problem in found.problems)
    assert sum("is missing: the action is left out" in problem for problem in found.problems) == 11


def test_a_prompts_file_replaces_the_templates(tmp_path):
    root = ucf(tmp_path, "Diving-Side/001/a.avi", "Lifting/001/b.avi")
    found = ucf_sports(
        root, [Prompt("a panda dives", "Diving-Side"), Prompt("a robot")], only=["Diving-Side"]
    )
    assert [(c.title, c.prompts) for c in found.concepts] == [("Diving-Side", ("a panda dives", "a robot"))]
    assert found.problems == ()
    with pytest.raises(UserError, match="which is not in the set"):
        ucf_sports(root, [Prompt("a panda", "Dancing")])
    with pytest.raises(UserError, match="no such concept; its concepts are Diving-Side"):
        ucf_sports(root, only=["Dancing"])


def test_every_clip_of_loveu_is_a_concept_with_the_tables_prompts(tgve):
    for given in (tgve, tgve.parent):
        found = loveu_tgve(given)
        assert [c.name for c in found.concepts] == ["tgve-gold-fish", "tgve-aircraft-landing", "tgve-swans"]
        fish = found.concepts[0]
        assert fish.caption == "gold-fish moves"
        assert fish.prompts == tuple(captions("gold-fish")[2:])
        assert fish.sources == (tgve / "DAVIS_480p/480p_videos/gold-fish.mp4",)
        assert found.problems == (
            f"{tgve / 'DAVIS_480p/480p_videos/bus.mp4'} is missing: the clip is left out",
        )


def test_more_prompts_join_those_of_the_table(tgve):
    more = [Prompt("a whale swims", "gold-fish"), Prompt("a robot")]
    found = loveu_tgve(tgve, more, only=["gold-fish", "swans"])
    assert [len(c.prompts) for c in found.concepts] == [6, 5]
    assert found.concepts[0].prompts[-2:] == ("a whale swims", "a robot")


def test_the_table_may_come_without_parts_and_with_a_title_above_its_header(tmp_path):
    short = [name.replace(" Caption", "") for name in HEADER]
    root = loveu(
        tmp_path, [["LOVEU-TGVE 2023"], short, captions("swans")], ["videvo_480p/480p_videos/swans.mp4"]
    )
    assert loveu_tgve(root).concepts[0].caption == "swans moves"


def test_data_that_is_not_there_is_one_sentence_with_the_path_that_was_expected(tmp_path, tgve):
    for load, expected in (
        (ucf_sports, "ucf action/Diving-Side/001"),
        (loveu_tgve, "LOVEU-TGVE-2023_Dataset.csv"),
    ):
        with pytest.raises(UserError) as refused:
            load(tmp_path / "nothing")
        assert str(tmp_path / "nothing") in refused.value.message
        assert expected in refused.value.message
        assert "\n" not in refused.value.message
    (tgve / "DAVIS_480p/480p_videos/gold-fish.mp4").unlink()
    with pytest.raises(UserError, match=r"gold-fish.mp4 is missing"):
        loveu_tgve(tgve, only=["gold-fish"])
    with pytest.raises(UserError, match="no column 'our gt caption'"):
        loveu_tgve(loveu(tmp_path / "x", [["Video name", "Caption"], ["a", "b"]], []))
    with pytest.raises(UserError, match="lists no video"):
        loveu_tgve(loveu(tmp_path / "y", [HEADER], []))


def test_a_row_of_the_table_that_a_comma_cut_is_refused_with_its_line(tmp_path):
    cut = [*captions("swans")[:-1], "a cat", " in space"]
    with pytest.raises(UserError, match=r"line 3: 7 cells, but the header has 6"):
        loveu_tgve(loveu(tmp_path / "cut", [HEADER, captions("bus"), cut], []))
    with pytest.raises(UserError, match="line 2: no `Video name`"):
        loveu_tgve(loveu(tmp_path / "nameless", [HEADER, captions("")], []))


def test_names_fit_the_registry():
    for name in [*UCF_ACTIONS, "a man's  video (2)..mp4", "x" * 90]:
        assert check_concept_name(slug(f"tgve-{name}"))
