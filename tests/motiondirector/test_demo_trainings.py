"""What the demo does beside what: trainings in their order, no more at once than there is room for, none left behind."""

import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from datasets.ingest.sources import expand
from infra.errors import UserError
from motiondirector.demo.cast import chosen
from motiondirector.demo.clips import REAL, write_manifest
from motiondirector.demo.stage import end
from motiondirector.demo.story import Demo
from motiondirector.demo.trainings import Training, Trainings


class Commands:
    """Stand-ins for `motiondirector train`: each runs until its standard input is closed."""

    def __init__(self):
        self.begun, self.children = [], {}

    @contextmanager
    def beside(self, log, name, code="0"):
        program = f"import sys; sys.stdin.read(); print('told why', flush=True); sys.exit({code})"
        with log.open("w") as file:
            child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=file)
        self.begun.append(name)
        self.children[name] = child
        try:
            yield child
        finally:
            child.stdin.close()
            end(child, patience=5)

    def finish(self, name):
        self.children[name].stdin.close()
        self.children[name].wait()


def trainings_of(tmp_path, commands, *asked, room=2):
    made = [Training(name, (name, *rest), tmp_path / f"{name}.log") for name, *rest in asked]
    return Trainings(made, commands.beside, room)


def test_they_begin_in_order_as_there_is_room(tmp_path):
    commands = Commands()
    with trainings_of(tmp_path, commands, ["a"], ["b"], ["c"]) as trainings:
        trainings.begin(1)
        trainings.begin(1)
        assert commands.begun == ["a"], "the others wait for the service"
        trainings.begin()
        assert commands.begun == ["a", "b"]
        assert [trainings.ended(name) for name in "abc"] == [False, False, False]
        commands.finish("b")
        assert [trainings.ended(name) for name in "abc"] == [False, True, False]
        trainings.begin()
        assert commands.begun == ["a", "b", "c"]
        for name in "ac":
            commands.finish(name)
        assert all(trainings.ended(name) for name in "abc")


def test_one_that_fails_is_told_with_the_end_of_its_log_and_the_others_are_ended(tmp_path):
    commands = Commands()
    with trainings_of(tmp_path, commands, ["a"], ["b", "3"]) as trainings:
        trainings.begin()
        commands.finish("b")
        with pytest.raises(
            UserError, match=r"training of b ended with code 3; the end of .*b.log:\ntold why"
        ):
            trainings.ended("a")
    assert commands.children["a"].poll() is not None


def test_its_time_is_from_its_beginning_to_its_publication(tmp_path):
    commands = Commands()
    with trainings_of(tmp_path, commands, ["a"]) as trainings:
        before = datetime.now(UTC)
        trainings.begin()
        took = trainings.seconds("a", datetime.now(UTC) + timedelta(seconds=90))
    assert 90 <= took <= 91 + (datetime.now(UTC) - before).total_seconds()


def demo(tmp_path, **changes):
    return Demo(tmp_path, chosen(None), **changes)


def test_the_coupled_baseline_is_trained_only_where_it_is_asked_for(tmp_path):
    def names(story):
        return [one.name for one in story.trainings("data", "registry", "runs")]

    assert names(demo(tmp_path, uses=False)) == ["orbit", "zigzag"]
    assert names(demo(tmp_path)) == ["orbit", "zigzag", "dressed", "picture"]
    assert names(demo(tmp_path, coupled=True)) == ["orbit", "zigzag", "dressed", "picture", "orbit-coupled"]


def test_the_first_training_is_shown_and_the_others_have_their_logs(tmp_path):
    first, *others = demo(tmp_path, coupled=True, steps=7).trainings("data", "registry", "runs")
    assert first.log is None
    assert [one.log.name for one in others] == [
        f"train-{name}.log" for name in ("zigzag", "dressed", "picture", "orbit-coupled")
    ]
    assert all("--steps 7" in " ".join(one.arguments) for one in (first, *others))
    assert others[-1].arguments[-4:] == ("--method", "coupled", "--publish-as", "orbit-coupled")


@pytest.mark.parametrize(("cores", "workers", "room"), [(2, 1, 2), (2, 2, 1), (1, 2, 1), (8, 2, 4)])
def test_trainings_share_the_cores_and_ray_has_room_for_an_engine_beside_them(
    tmp_path, monkeypatch, cores, workers, room
):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    story = demo(tmp_path, workers=workers)
    assert story.room == room
    assert story.cpus > room * workers
    assert story.environment()["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in demo(tmp_path, foundation="a/larger-one").environment()


def test_one_list_has_the_clips_of_every_folder_with_their_captions_or_given_ones(tmp_path):
    for name, caption in (("orbit", 'a "red" star, orbiting'), ("clips", "a fox")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "1.mp4").touch()
        quoted = caption.replace('"', '""')
        (folder / "captions.csv").write_text(f'file,caption\n1.mp4,"{quoted}"\n')
    folders = {"orbit": tmp_path / "orbit", REAL: tmp_path / "clips"}
    manifest = write_manifest(tmp_path / "all.csv", folders, {REAL: "an animal"})
    found = expand([str(manifest)])
    assert [(Path(one.uri).parent.name, one.caption, one.concept) for one in found] == [
        ("orbit", 'a "red" star, orbiting', "orbit"),
        ("clips", "an animal", "real"),
    ]
    assert [one.problem for one in found] == [None, None]
