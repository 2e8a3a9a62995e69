"""benchmarks/serving.py: its workloads, its figures, and every suite on the tiniest model."""

from __future__ import annotations

import json

import pytest

from benchmarks import serving
from benchmarks.serving_bench import runs
from benchmarks.serving_bench.baselines import LoadUnload
from benchmarks.serving_bench.load import steps_until_joined
from benchmarks.serving_bench.ours import Record, Run
from benchmarks.serving_bench.report import targets
from benchmarks.serving_bench.runs import compare_frames, percentile
from benchmarks.serving_bench.setup import Shape, make_jobs, make_setup, zipf

TINY = "tiny-random:unet3d"


def test_popularity_and_arrivals_follow_their_laws():
    assert zipf(4, 0.0) == [0.25] * 4
    assert zipf(2, 1.0) == pytest.approx([2 / 3, 1 / 3])
    jobs = make_jobs(2000, 8, 1.2, rate=5.0)
    counts = [sum(job.adapter == n for job in jobs) for n in range(8)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] / 2000 == pytest.approx(zipf(8, 1.2)[0], rel=0.1)
    assert jobs[-1].arrival == pytest.approx(2000 / 5, rel=0.1)
    assert make_jobs(2000, 8, 1.2, rate=5.0) == jobs
    assert [job.adapter for job in make_jobs(5, 2)] == [0, 1, 0, 1, 0]


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (50.0, 99.0, 3.0)


def test_a_request_that_sat_out_steps_with_room_is_counted():
    """b comes during a's first step and joins at its end; c comes then too and is left out for two more."""
    a = Record(0.0, admitted=0.0, steps=[(n, 1, 1) for n in (1.0, 2.0, 3.0, 4.0)])
    b = Record(0.5, admitted=1.01, steps=[(2.0, 2, 2)])
    c = Record(0.6, admitted=3.01, steps=[(4.0, 2, 2)])
    assert steps_until_joined(Run({"a": a, "b": b, "c": c}, 4.0), max_batch=8) == [0, 1, 3]
    assert steps_until_joined(Run({"a": a, "b": b, "c": c}, 4.0), max_batch=2) == [0, 1], "no room for c"


def test_a_figure_on_the_wrong_side_of_its_bound_is_a_miss():
    ratios = {
        name: {"median": value} for name, value in {"switch / step": 0.2, "host to slot / step": 0.01}.items()
    }
    judged = targets({"device": "cpu", "steps": {"ratios": ratios}})
    assert [(one["target"], one["met"]) for one in judged] == [
        ("switch / step", False),
        ("host to slot / step", True),
    ]


def test_a_side_that_makes_other_frames_is_no_baseline(tmp_path, monkeypatch):
    class Forgets(LoadUnload):
        def apply(self, adapter):
            super().apply(None)

    setup = make_setup(TINY, tmp_path, 1, [4])
    shape = Shape(setup.foundation.defaults.bucket, 4, 3.0)
    monkeypatch.setitem(runs.BASELINES, "B", Forgets)
    with pytest.raises(AssertionError, match="B's frames differ"):  # and A's do not
        compare_frames(setup, ["A", "B"], shape, str)


def test_suites_run_and_are_written_down(tmp_path, capsys):
    out = tmp_path / "report.json"
    words = (
        f"--quick --models {TINY} --suite frames steps throughput poisson --sides E --adapters 2 --ranks 4"
    )
    words += " --requests 2 --repeats 1 --turns 1 --steps 1 --load-requests 4 --load-adapters 2 --few-slots 1"
    words += " --load-steps 1 --load-sides --loads 0.5"
    serving.main([*words.split(), "--json", str(out)])
    (results,) = json.loads(out.read_text())["models"]
    assert results["frames"]["E"].startswith("does not work with this model class")
    assert set(results["throughput"][0]["sides"]) == {"ours"}
    assert results["throughput"][0]["sides"]["ours"]["per_minute"]["min"] > 0
    sides = results["poisson"][0]["sides"]
    assert {kind: side["requests"] for kind, side in sides.items()} == {
        "ours, all resident": 4,
        "ours, 1 slots": 4,
    }
    assert "targets" in capsys.readouterr().out
