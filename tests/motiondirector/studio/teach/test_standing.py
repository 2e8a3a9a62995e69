"""What people read of a training: words, a bar that does not go back, time, and a chart."""

from __future__ import annotations

import pytest

from motiondirector.studio.teach.chart import HEIGHT, WIDTH, chart_of
from motiondirector.studio.teach.following import Placed, stamp_of
from motiondirector.studio.teach.standing import duration, look_at
from serving.jobs.training_tables import Training


def training(state: str, **values) -> Training:
    return Training(id="ftjob-1", state=state, **{"revision": 3, "step": 0, "steps": 100, **values})


@pytest.mark.parametrize(
    ("state", "values", "before", "words"),
    [
        ("validating_files", {}, 0, "Looking at the clips"),
        ("queued", {}, 0, "Waiting for a free place"),
        ("queued", {}, 1, "Waiting: one of your trainings before it"),
        ("queued", {}, 3, "Waiting: 3 of your trainings before it"),
        ("running", {}, 0, "Getting ready"),
        ("running", {"step": 7}, 0, "Learning: step 7 of 100"),
        ("succeeded", {"step": 100, "version": "t-00000000000000000000000000000000.x@2"}, 0, "Learned"),
        ("failed", {}, 0, "Failed"),
        ("cancelled", {}, 0, "Cancelled"),
    ],
)
def test_every_state_has_words(state: str, values: dict, before: int, words: str):
    assert look_at(training(state, **values), "x", before, []).words == words


def test_the_bar_does_not_go_back_when_a_lane_begins_again():
    look = look_at(training("running", step=10), "x", 0, [(10, 0.5), (40, 0.3), (10, 0.5)])
    assert (look.progress, look.words) == (40, "Learning: step 10 of 100")
    assert look_at(training("running", step=100), "x", 0, []).progress == 99, "it has yet to be published"


def test_a_place_in_the_queue_changes_the_stamp():
    stamps = [stamp_of([Placed(training("queued", number=1), before)]) for before in (2, 1)]
    assert stamps[0] != stamps[1]


def test_the_time_left_is_that_of_the_remaining_steps():
    assert look_at(training("running", step=40, step_seconds=3.0), "x", 0, []).left == "about 3 minutes left"
    assert look_at(training("running"), "x", 0, []).left == ""
    said = [duration(seconds) for seconds in (1, 60, 200, 3600, 7200, 9000)]
    assert said == [
        "less than a minute",
        "about a minute",
        "about 3 minutes",
        "about 60 minutes",
        "about 2 hours",
        "about 2 hours",
    ]


def test_the_chart_holds_all_losses_in_its_frame():
    assert chart_of([], 10) is None
    assert chart_of([(1, 0.5)], 10) is None
    chart = chart_of([(1, 0.5), (2, float("nan")), (3, 0.1), (5, 0.3), (5, 0.2)], 10)
    assert chart is not None
    points = [tuple(map(float, pair.split(","))) for pair in chart.raw.split()]
    assert points == [(0.1 * WIDTH, 0.0), (0.3 * WIDTH, HEIGHT), (0.5 * WIDTH, pytest.approx(0.75 * HEIGHT))]
    assert (chart.high, chart.low, chart.last) == ("0.5", "0.1", 10)
    long = chart_of([(step, 1.0 / (1 + step)) for step in range(20_000)], 20_000)
    assert long is not None
    assert len(long.raw.split()) <= 240
    flat = chart_of([(1, 0.5), (2, 0.5)], None)
    assert flat is not None
    assert "nan" not in flat.raw
