"""Batches of tiny concepts on clusters of several local nodes."""

from contextlib import contextmanager
from itertools import pairwise

from clip_sets import sliding_clips, write_set

from infra.ray.cluster import QUIET, python_path, ray_session, variables
from infra.registry import open_registry
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.run import enter
from training.batch.state.state import open_batch

WAN = "tiny-random:wan"
SETTINGS = {
    "frames": 5,
    "height": 32,
    "width": 32,
    "rank": 4,
    "checkpoint_interval": 10,
    "learning_rate": 1e-3,
}


@contextmanager
def nodes(count, cpus=1):
    """A head without CPUs and `count` nodes, with a session attached. Yields (cluster, nodes)."""
    from ray.cluster_utils import Cluster

    environment = {**QUIET, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    with variables(environment):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            made = [cluster.add_node(num_cpus=cpus) for _ in range(count)]
            with ray_session(cluster.address):
                yield cluster, made
        finally:
            cluster.shutdown()


class Batch:
    """A registry with a batch of planned concepts c0, c1, ..."""

    def __init__(self, home, count, **settings):
        self.data = write_set(
            f"{home}/clips", *(c for n in range(count) for c in sliding_clips(f"c{n}", count=1))
        )
        self.registry = open_registry(f"{home}/registry")
        settings = {**SETTINGS, **settings}
        self.entries = [Entry(f"c{n}", self.data, WAN, settings=settings) for n in range(count)]
        plan = make_plan(self.entries, "m", self.registry)
        self.works = {work.name: work for work in plan.works}
        self.state = open_batch(self.registry.storage, "b")
        enter(self.state, plan, {"manifest": "m"})

    def versions(self):
        return {name: [v.ref for v in self.registry.versions(name)] for name in self.works}


class Story:
    """Each call runs the next chapter, until that returns true. `trail` has each concept's records."""

    def __init__(self, *chapters):
        self.chapters, self.trail, self.lanes = list(chapters), {}, {}

    def __call__(self, records, lanes):
        for record in records:
            self.trail.setdefault(record.name, []).append(record)
        self.lanes.update({lane.name: lane for lane in lanes})
        if self.chapters and self.chapters[0](records, [lane for lane in lanes if lane.host]):
            del self.chapters[0]

    def check_work_lost(self, interval):
        """Check that no concept lost more than the steps since its last checkpoint, at most an interval."""
        for name, seen in self.trail.items():
            for before, after in pairwise(seen):
                assert after.checkpoint_step >= before.checkpoint_step, name
                assert after.step >= before.step - interval or after.ended, (name, before, after)
