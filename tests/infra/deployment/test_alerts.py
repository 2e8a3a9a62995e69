"""Each alert fires in the situation it is for, and not in the one beside it.

A gauge of a Ray process vanishes with what the process has to say (`stale`): rules must fire all the same.
"""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from promql import firing

RULES = Path(__file__).resolve().parents[3] / "infra" / "monitoring" / "rules.yaml"
JOBS, ENGINE, TRAIN = "ray_motiondirector_jobs", "ray_motiondirector_engine_", "ray_motiondirector_train_"
HEALTHY = 'ray_serve_deployment_replica_healthy{deployment="engine", replica="%s"}'
ANSWERS = 'ray_serve_num_http_requests_total{status_code="%s"}'


@dataclass(frozen=True)
class Case:
    what: str
    alert: str
    series: dict[str, str]
    silent: tuple[int, ...] = ()  # minutes
    loud: tuple[int, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)  # of what fires


def training(step, steps, count, **more):
    concept = '{concept="orbit"}'
    told = {"step": step, "steps": steps, "step_seconds_count": count}
    return {f"{TRAIN}{name}{concept}": text for name, text in told.items()} | more


def ended(status):
    """The driver tells of it for five minutes, and then it ends as well."""
    return {f'{TRAIN}ended{{concept="orbit", status="{status}"}}': "_x11 1x5 stale"}


def job(state, values):
    return {f'{JOBS}{{state="{state}"}}': values}


ORBIT = {"concept": "orbit"}
STEPS = f"{ENGINE}step_seconds_count"
LOADS = f"{ENGINE}slot_loads"
DISK = {"ray_node_disk_usage": "90x20", "ray_node_mem_total": "100x20"}
CASES = [
    Case(
        "the last engine died and no other comes",
        "NoEngine",
        {**job("queued", "0x60"), HEALTHY % "a": "1x10 0 stale"},
        silent=(10,),
        loud=(14, 60),
    ),
    Case("a service whose engine never came", "NoEngine", job("queued", "0x60"), loud=(10,)),
    Case(
        "an engine takes another's place",
        "NoEngine",
        {**job("queued", "0x60"), HEALTHY % "a": "1x10 0 stale", HEALTHY % "b": "_x12 1x40"},
        silent=(10, 11, 12, 13, 14, 30),
    ),
    Case("a cluster that only trains", "NoEngine", {f"{TRAIN}step": "1x60"}, silent=(10, 60)),
    Case(
        "an engine hangs: it says nothing of what waits",
        "JobsStuck",
        {**job("in_progress", "3x90"), STEPS: "0+60x20 1200x70", f"{ENGINE}waiting": "2x20 stale"},
        silent=(15, 21),
        loud=(40, 90),
    ),
    Case(
        "an engine went with its node",
        "JobsStuck",
        {**job("in_progress", "3x90"), STEPS: "0+60x20 stale"},
        silent=(15, 21),
        loud=(40, 90),
    ),
    Case(
        "nobody asks for anything",
        "JobsStuck",
        {**job("in_progress", "0x60"), STEPS: "9x60"},
        silent=(30, 60),
    ),
    Case("more come than are made", "QueueGrows", job("queued", "0+10x60"), silent=(5,), loud=(40,)),
    Case("as many come as are made", "QueueGrows", job("queued", "100x60"), silent=(40,)),
    Case("a copy for each request", "SlotsThrash", {LOADS: "0+90x60", STEPS: "0+60x60"}, loud=(40,)),
    Case("adapters stay", "SlotsThrash", {LOADS: "0+1x60", STEPS: "0+60x60"}, silent=(40,)),
    Case("one in ten fails", "HttpErrors", {ANSWERS % 500: "0+1x60", ANSWERS % 200: "0+9x60"}, loud=(40,)),
    Case(
        "one in a hundred fails",
        "HttpErrors",
        {ANSWERS % 500: "0+1x60", ANSWERS % 200: "0+99x60"},
        silent=(40,),
    ),
    Case(
        "its worker is lost and no other comes",
        "TrainingStands",
        training("0+10x30 stale", "900x30 stale", "0+10x30 stale"),
        silent=(20, 31, 45, 160),
        loud=(52, 120),
        labels=ORBIT,
    ),
    Case(
        "its worker hangs",
        "TrainingStands",
        training("0+10x30 stale", "900x30 stale", "0+10x30 300x60"),
        silent=(45,),
        loud=(52, 90),
        labels=ORBIT,
    ),
    Case(
        "it goes on elsewhere",
        "TrainingStands",
        training("0+10x30 stale", "900x30 stale", "0+10x30 stale")
        | {
            f'{TRAIN}{name}{{concept="orbit", WorkerId="b"}}': f"_x40 {values}"
            for name, values in (
                ("step", "290+10x60"),
                ("steps", "900x60"),
                ("step_seconds_count", "1+10x60"),
            )
        },
        silent=(45, 50, 55, 90),
    ),
    Case(
        "it is done",
        "TrainingStands",
        training("0+10x10 stale", "100x10 stale", "0+10x10 100x90"),
        silent=(40, 90),
    ),
    *(
        Case(
            f"it is {status}, and what its worker said last was lost with it",
            "TrainingStands",
            training("0+10x10 stale", "900x10 stale", "0+10x10 100x90") | ended(status),
            silent=(15, 40, 90, 125),
        )
        for status in ("published", "failed", "cancelled")
    ),
    Case(
        "GPUs are held and not used",
        "GpusIdle",
        {"ray_node_gpus_utilization": "3x60", "ray_node_gpus_available": "1x60"},
        silent=(20,),
        loud=(40,),
    ),
    Case(
        "GPUs work",
        "GpusIdle",
        {"ray_node_gpus_utilization": "80x60", "ray_node_gpus_available": "1x60"},
        silent=(40,),
    ),
    Case(
        "no spot machine is to be had: asked for, refused, asked for again",
        "NodesNotHad",
        {'autoscaler_pending_nodes{NodeType="gpu_spot"}': "0x5 " + "1 1 0 0 " * 20},
        silent=(20,),
        loud=(40,),
        labels={"NodeType": "gpu_spot"},
    ),
    Case(
        "machines take their minutes to come, and go when they are idle",
        "NodesNotHad",
        {
            'autoscaler_pending_nodes{NodeType="cpu"}': "2x8 0x60",
            'autoscaler_recently_failed_nodes{NodeType="cpu"}': "0x8 1x60",
        },
        silent=(22, 40, 60),
    ),
    Case("a disk fills", "DiskFull", {**DISK, "ray_node_disk_free": "5x20"}, loud=(10,)),
    Case("a disk has room", "DiskFull", {**DISK, "ray_node_disk_free": "50x20"}, silent=(10,)),
    Case("memory runs out", "MemoryFull", {**DISK, "ray_node_mem_used": "95x20"}, loud=(10,)),
    Case("memory is left", "MemoryFull", {**DISK, "ray_node_mem_used": "60x20"}, silent=(10,)),
]


@pytest.fixture(scope="module")
def alerts():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return {rule["alert"].removeprefix("MotionDirector"): rule for rule in rules}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.what}")
def test_an_alert_fires_when_it_should(alerts, case):
    for minute in case.silent:
        assert firing(alerts[case.alert], case.series, minute) == [], minute
    for minute in case.loud:
        assert firing(alerts[case.alert], case.series, minute) == [case.labels], minute


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alerts):
    assert {case.alert for case in CASES if case.loud} == set(alerts)
    assert {case.alert for case in CASES if case.silent and not case.loud} == set(alerts)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (of Prometheus) is not installed")
def test_prometheus_itself_says_the_same(tmp_path):
    tests = []
    for case in CASES:
        name = f'ALERTS{{alertname="MotionDirector{case.alert}", alertstate="firing"}}'
        asked = [{"expr": f"count({name})", "eval_time": f"{minute}m"} for minute in case.silent]
        fires = {"exp_samples": [{"labels": "{}", "value": 1}]}
        asked += [{"expr": f"count({name})", "eval_time": f"{minute}m", **fires} for minute in case.loud]
        series = [{"series": name, "values": values} for name, values in case.series.items()]
        tests.append({"interval": "1m", "name": case.what, "input_series": series, "promql_expr_test": asked})
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
