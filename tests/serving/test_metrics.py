"""An engine's observations as Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from serving.metrics import ENGINE, BoundedLabels, EngineMetrics


def test_each_name_an_engine_reports_becomes_a_metric():
    registry = CollectorRegistry()
    observe = EngineMetrics(registry)
    for name, (_, _, labels) in ENGINE.items():
        observe(name, 3.0, dict.fromkeys(labels, "disk") or None)
    value = registry.get_sample_value
    for name, (kind, _, labels) in ENGINE.items():
        full, given = f"motiondirector_engine_{name}", dict.fromkeys(labels, "disk")
        assert value(f"{full}_sum" if kind == "histogram" else full, given) == 3.0, name
    observe("step_seconds", 1.0)
    observe("waiting", 1.0)
    assert value("motiondirector_engine_step_seconds_count") == 2
    assert value("motiondirector_engine_waiting") == 1


def test_a_name_that_is_not_known_here_makes_no_metric():
    registry = CollectorRegistry()
    before = len(generate_latest(registry))
    observe = EngineMetrics(registry)
    made = generate_latest(registry)
    observe("of_tomorrow", 1.0)
    assert generate_latest(registry) == made
    assert len(made) > before


def test_label_values_are_so_many_and_no_more():
    label = BoundedLabels(2)
    assert [label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]
