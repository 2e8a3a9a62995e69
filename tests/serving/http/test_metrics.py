"""An engine's observations as Ray's metrics, and labels that do not grow without bound."""

from __future__ import annotations

from typing import Any

import pytest
from ray.util.metrics import Metric

from serving.http.metrics import ENGINE, BoundedLabels
from serving.ray.deployment import EngineMetrics


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What Ray's metrics are told, beside what they make of it: name, value, labels."""
    told: list[tuple[str, float, dict[str, str]]] = []
    record = Metric._record

    def noted(self: Metric, value: float, tags: Any = None) -> None:
        record(self, value, tags)
        told.append((self.info["name"], value, tags))

    monkeypatch.setattr(Metric, "_record", noted)
    return told


def test_each_name_an_engine_reports_becomes_a_metric(told):
    observe = EngineMetrics()
    for name, (_, _, labels) in ENGINE.items():
        given = dict.fromkeys(labels, "disk")
        observe(name, 3.0, given or None)
        assert told.pop() == (f"motiondirector_engine_{name}", 3.0, given)
    assert told == []


def test_what_stays_the_same_is_told_again_since_ray_forgets_a_gauge_that_is_not_set(told):
    observe = EngineMetrics()
    for value in (1.0, 1.0, 2.0):
        observe("waiting", value)
        observe("step_seconds", value)
    assert [value for name, value, _ in told if name.endswith("waiting")] == [1.0, 1.0, 2.0]
    assert [value for name, value, _ in told if name.endswith("step_seconds")] == [1.0, 1.0, 2.0]


def test_a_name_that_is_not_known_here_makes_no_metric(told):
    EngineMetrics()("of_tomorrow", 1.0)
    assert told == []


def test_label_values_are_so_many_and_no_more():
    label = BoundedLabels(2)
    assert [label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]
