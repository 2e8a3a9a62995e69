"""What a driver says to Prometheus of the concepts it trains."""

from types import SimpleNamespace

import pytest
from ray.util.metrics import Gauge

from training.batch.cluster import ray_lanes
from training.batch.cluster.ray_lanes import Driver
from training.batch.state.record import ENDED, Record


@pytest.fixture
def told(monkeypatch):
    told = []
    monkeypatch.setattr(
        Gauge, "set", lambda self, value, tags=None: told.append((self.info["name"], value, tags))
    )
    return told


def test_a_batchs_driver_tells_at_each_look_of_all_that_have_ended(told, monkeypatch):
    """Also of those that no lane had: workers' own gauges go with them, and Ray forgets what is said once."""
    monkeypatch.setattr(ray_lanes, "reachable_nodes", lambda: [{"CPU": 4.0}])
    records = [Record(f"c-{status}", {}, "", 0, 0, status) for status in ENDED]
    Driver(SimpleNamespace(records=lambda: records), None, "b").run()  # looks, and looks again as it leaves
    once = [
        ("motiondirector_train_ended", 1, {"concept": f"c-{status}", "status": status}) for status in ENDED
    ]
    assert told == once * 2
