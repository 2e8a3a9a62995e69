"""Rules and dashboard ask for metrics that there are: our own, from the code that makes them, and Ray's."""

import inspect
import json
import re
from itertools import combinations
from pathlib import Path

import promql_parser
import pytest
import ray
import yaml
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder
from ray.serve._private import request_ingress_metrics
from ray.serve._private.common import RequestProtocol
from ray.util import metrics as ray_metrics

import training.reporting.metrics
from serving.jobs.jobs import QUEUED, STATES
from serving.ray import deployment, ingress
from training.loop.report import StepReport

MONITORING = Path(__file__).resolve().parents[3] / "infra" / "monitoring"
PANELS = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"


@pytest.fixture(scope="module")
def rules():
    return [rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]]  # fmt: skip


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((MONITORING / "dashboard.json").read_text())


def graphs(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def expressions(rules, dashboard):
    asked = [rule["expr"] for rule in rules]
    return asked + [target["expr"] for panel in graphs(dashboard) for target in panel["targets"]]


class Recorder:
    """Stands where Ray's metrics do and remembers what was made: {name as Prometheus has it: labels}."""

    def __init__(self):
        self.made = {}
        for kind, endings in {
            "Gauge": [""],
            "Counter": ["_total"],
            "Histogram": ["_bucket", "_sum", "_count"],
        }.items():
            setattr(self, kind, self.maker(getattr(ray_metrics, kind), endings))

    def maker(self, kind, endings):
        def make(*args, **kwargs):
            metric = kind(*args, **kwargs)
            for ending in endings:
                labels = {*metric.info["tag_keys"], *(["le"] if ending == "_bucket" else [])}
                self.made[f"ray_{metric.info['name']}{ending}"] = labels
            return metric

        return make


@pytest.fixture(scope="module")
def own():
    """Every metric of ours: what the classes named ...Metrics make."""
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        for module in (deployment, ingress, training.reporting.metrics):
            patch.setattr(module, "metrics", recorder)
            found = [thing for name, thing in vars(module).items() if name.endswith("Metrics") and inspect.isclass(thing)]  # fmt: skip
            assert found
            for thing in found:
                thing()
    return recorder.made


def selectors(expression):
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found


def test_every_expression_is_promql_and_asks_for_something(expressions):
    assert len(expressions) > 30
    for expression in expressions:
        assert selectors(expression), expression


def test_wrong_promql_would_be_seen():
    for wrong in ("sum by (le (x)", "rate(x)", "histogram_quantile(0.9)"):
        with pytest.raises(ValueError):
            promql_parser.parse(wrong)


def test_every_metric_is_one_of_ours_or_of_those_rays_own_dashboards_ask_for(expressions, own):
    of_ray = set(
        re.findall(r"\b(?:ray|autoscaler)_\w+", "".join(file.read_text() for file in PANELS.glob("*.py")))
    )
    asked = {selector.name for expression in expressions for selector in selectors(expression)}
    assert {name for name in asked if "motiondirector" in name} <= set(own)
    assert {name for name in asked if "motiondirector" not in name} <= of_ray
    assert not any("motiondirector" in name for name in of_ray)


def test_all_of_our_metrics_are_shown(dashboard, own):
    shown = {selector.name for panel in graphs(dashboard) for target in panel["targets"] for selector in selectors(target["expr"])}  # fmt: skip
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in own}
    assert {name for name in families if not any(s.startswith(name) for s in shown)} == set()


def test_labels_of_our_metrics_are_those_they_have(expressions, own):
    for expression in expressions:
        names = [selector.name for selector in selectors(expression)]
        if not all(name in own for name in names):
            continue
        for by in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            labels = {label.strip() for label in by.split(",")}
            assert labels <= set.union(*(own[name] for name in names)), expression


def test_labels_that_are_matched_are_those_the_metrics_have(expressions, own):
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_ingress_metrics, "metrics", recorder)
        kind = request_ingress_metrics.RequestIngressMetrics
        kind(RequestProtocol.HTTP, source="proxy", node_id="", node_ip_address="")
    replica = {"ray_serve_deployment_replica_healthy": {"deployment", "replica", "application"}}
    known = {**own, **recorder.made, **replica}
    matched = [
        (selector.name, matcher.name)
        for expression in expressions
        for selector in selectors(expression)
        for matcher in selector.matchers.matchers
    ]
    assert len(matched) >= 4
    for metric, label in matched:
        assert label in known[metric], (metric, label)


def test_a_growing_queue_is_seen_where_it_grows(rules):
    """In the database: what engines hold of it is bounded."""
    [rule] = [rule for rule in rules if rule.get("alert") == "MotionDirectorQueueGrows"]
    asked = selectors(rule["expr"])
    assert {selector.name for selector in asked} == {"ray_motiondirector_jobs"}
    assert {(m.name, m.value) for one in asked for m in one.matchers.matchers} == {("state", QUEUED)}


def test_states_of_jobs_are_those_there_are(expressions):
    asked = [
        s for expression in expressions for s in selectors(expression) if s.name == "ray_motiondirector_jobs"
    ]
    states = {m.value for one in asked for m in one.matchers.matchers if m.name == "state"}
    assert states
    assert states <= set(STATES)


def test_training_says_where_each_concept_stands(monkeypatch):
    said = {}

    def note(metric, value, tags=None):
        said[metric.info["name"], *sorted((tags or {}).values())] = value

    monkeypatch.setattr(ray_metrics.Gauge, "set", note)
    monkeypatch.setattr(ray_metrics.Histogram, "observe", note)
    report = StepReport(
        step=3, steps=9, loss=3.0, spatial_loss=1.0, temporal_loss=2.0, learning_rate=1e-3, seconds=0.5
    )
    training.reporting.metrics.TrainingMetrics()("orbit", report)
    name = "motiondirector_train_"
    assert said == {
        (f"{name}step", "orbit"): 3,
        (f"{name}steps", "orbit"): 9,
        (f"{name}loss", "orbit", "spatial"): 1.0,
        (f"{name}loss", "orbit", "temporal"): 2.0,
        (f"{name}step_seconds", "orbit"): 0.5,
    }


def test_an_alert_says_what_is_wrong_and_what_to_do(rules):
    alerts = [rule for rule in rules if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 8
    for rule in alerts:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "remedy"}
        assert promql_parser.parse_duration(rule["for"]).total_seconds() >= 60
    for rule in rules:
        if "record" in rule:
            assert re.fullmatch(r"motiondirector:\w+:\w+", rule["record"])


def test_the_dashboard_has_no_overlaps_and_one_data_source(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        aside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert aside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)
    (variable,) = dashboard["templating"]["list"]
    for panel in graphs(dashboard):
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}


def test_pods_are_scraped_where_they_export():
    from kustomize import build, containers

    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())["spec"]
    kubernetes = MONITORING.parent / "kubernetes" / "overlays" / "cpu"
    cluster = next(t for t in build(kubernetes / "cluster") if t["kind"] == "RayCluster")
    assert monitor["namespaceSelector"]["matchNames"] == [cluster["metadata"]["namespace"]]
    head = cluster["spec"]["headGroupSpec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= head["metadata"]["labels"].items()
    (container,) = containers(head)
    ports = {port["name"] for port in container["ports"]}
    endpoints = {endpoint.pop("port"): endpoint for endpoint in monitor["podMetricsEndpoints"]}
    assert set(endpoints) <= ports
    kept = OpenTelemetryMetricRecorder._resolve_gauge_ttl_seconds(None)
    assert 0 < promql_parser.parse_duration(endpoints["metrics"]["interval"]).total_seconds() < kept
