"""Progress of long work: bars on a terminal, lines where there is none."""

import io

import pytest
from rich.console import Console

from infra.errors import UserError
from motiondirector.progress import Bars


class Log:
    """Bars that write to a file, at a time that the test sets."""

    def __init__(self):
        self.file, self.now = io.StringIO(), 0.0
        self.bars = Bars(Console(file=self.file), lambda: self.now)

    def at(self, now, what, *how_far):
        self.now = now
        self.bars(what, *how_far)

    @property
    def lines(self):
        return self.file.getvalue().splitlines()


@pytest.fixture
def log():
    log = Log()
    with log.bars:
        yield log


def test_what_goes_on_is_a_line_each_half_minute_at_most(log):
    log.at(0, "trials", 0, 240)
    for second in range(100):
        log.at(second, "a [pack]", second, 1000, "loss 0.5")
    assert log.lines == [f"trials: 0 of 240; a [pack], loss 0.5: {second} of 1000" for second in (30, 60, 90)]


def test_what_is_done_is_a_line_once_and_no_longer_goes_on(log):
    log.at(0, "latents", 0, 4)
    log.at(2, "latents", 4, 4)
    log.at(3, "latents", 4, 4)
    log.at(40, "training", 5, 100)
    assert log.lines == ["latents: 4 of 4", "training: 5 of 100"]


def test_what_is_done_in_a_moment_is_not_worth_a_line(log):
    log.at(0, "latents", 0, 4)
    log.at(0.5, "latents", 4, 4)
    log.at(7, "motion fidelity", 3, 3)
    assert log.lines == []


def test_what_was_taken_away_no_longer_goes_on(log):
    log.at(0, "a pack", 10, 100)
    log.at(0, "another", 10, 100)
    log.bars.done("a pack")
    log.at(31, "trials", 1, 2)
    log.bars.clear()
    log.at(70, "trials", 2, 3)
    assert log.lines == ["another: 10 of 100; trials: 1 of 2", "trials: 2 of 3"]


def test_another_round_of_what_was_done_is_told_again(log):
    for start in (0, 10):
        log.at(start, "latents", 0, 4)
        log.at(start + 2, "latents", 4, 4)
    assert log.lines == ["latents: 4 of 4"] * 2


def test_on_a_terminal_there_are_bars_and_no_lines():
    now = iter(range(0, 10_000, 100))
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    bars = Bars(console, lambda: next(now))
    with console.capture() as shown:
        for step in range(5):
            bars("training", step, 4)
    assert shown.get() == ""
    assert [task.completed for task in bars.progress.tasks] == [4]


def test_a_packs_bar_of_the_study_goes_when_the_pack_is_done(run, monkeypatch, tmp_path):
    made, shown = [], []

    class Kept(Bars):
        def __init__(self):
            super().__init__()
            made.append(self)

    def run_plan(*_, on_step, **__):
        for step in (1, 2):
            on_step("orbit", step, 2)
            shown.append(list(made[0].tasks))
        raise UserError("that is enough")

    monkeypatch.setattr("motiondirector.progress.Bars", Kept)
    monkeypatch.setattr("motiondirector.study.run.run_plan", run_plan)
    code, _, err = run("study", "--quick", "--foundation", "tiny-random:unet3d", "--out", tmp_path)
    assert code == 2
    assert "that is enough" in err
    assert shown == [["trials", "orbit and its pack"], ["trials"]]
