"""Lanes on a cluster of several nodes: one is lost, one is told to go, and every concept ends as if alone."""

import os
import signal

import psutil
import pytest
import torch
from lane_clusters import WAN, Batch, Story, nodes

from models.adapters.file import read_adapter
from models.load import load_foundation
from training.batch.cluster.ray_lanes import Driver
from training.batch.latents.prepare import prepare_work
from training.batch.watch.logs import Reader
from training.runs.local import train_local

pytestmark = [pytest.mark.cluster, pytest.mark.faults]


def test_a_batch_outlives_a_lost_node_and_a_lane_that_must_go(tmp_path):
    batch = Batch(tmp_path, 4, steps=100, gradient_accumulation=4)  # seconds on a fast machine too
    lost, told, kept = [], [], {}
    with nodes(2) as (cluster, made):

        def lose_a_node(records, lanes):
            if len(lanes) < 2 or not all(r.checkpoint_step and r.lease for r in records):
                return False
            (node,) = [node for node in made if node.node_id == lanes[0].node]
            lost.extend(r.name for r in records if r.lease.owner == lanes[0].name)
            kept.update({r.name: r.checkpoint_step for r in records})
            cluster.remove_node(node, allow_graceful=False)
            return True

        def tell_the_other_to_go(records, lanes):
            if not any(r.lost and r.lease and r.checkpoint_step > kept[r.name] for r in records):
                return False
            (lane,) = [lane for lane in lanes if any(r.lease and r.lease.owner == lane.name for r in records)]
            told.append(lane.name)
            os.kill(lane.pid, signal.SIGTERM)
            return True

        story = Story(lose_a_node, tell_the_other_to_go)
        driver = Driver(batch.state, batch.registry, "b", show_batch=story, poll_s=0.2, linger_s=5)
        records = driver.run()
    assert story.chapters == []
    assert {r.status for r in records} == {"published"}
    assert batch.versions() == {f"c{n}": [f"c{n}@1"] for n in range(4)}
    assert {r.name: r.lost for r in records} == {f"c{n}": int(f"c{n}" in lost) for n in range(4)}
    assert len(lost) == 2
    assert sum(bool(lane.host) for lane in story.lanes.values()) == 3  # those that ran
    story.check_work_lost(20)  # an interval, and the steps done while the last checkpoint was under way
    logs = Reader(batch.state.storage)
    assert [line.text for line in logs.new("lanes", told[0])][-2:] == ["stops: SIGTERM", "ends: stopped"]
    lanes_of_lost = {line.lane for line in logs.new("concepts", lost[0])}
    assert len(lanes_of_lost) >= 2

    foundation = load_foundation(WAN, device="cpu", dtype="float32")
    for name in (lost[0], next(name for name in batch.works if name not in lost)):
        work = batch.works[name]
        alone = train_local(foundation, work.concept, prepare_work(work, foundation), work.config)["temporal"]
        folder = batch.registry.pull(batch.registry.resolve(name), tmp_path / name)
        assert difference(alone, read_adapter(folder).tensors) < 1e-5


def test_lanes_of_two_workers_outlive_a_lost_one_and_leave_in_order_for_one_that_must_go(tmp_path):
    batch = Batch(tmp_path, 2, steps=100, workers=2)
    told, kept = [], {}
    with nodes(3) as (cluster, made):

        def lose_a_worker(records, lanes):
            if not all(r.checkpoint_step and r.lease for r in records):
                return False
            (node,) = [node for node in made if node.node_id == lanes[0].node]
            kept.update({r.name: r.checkpoint_step for r in records})
            cluster.remove_node(node, allow_graceful=False)
            return True

        def tell_a_follower_to_go(records, lanes):
            if not lanes or not all(r.lost and r.checkpoint_step > kept[r.name] for r in records):
                return False
            leader = lanes[0].pid
            workers = [
                p
                for p in psutil.process_iter(["cmdline"])
                if "RayTrainWorker" in "".join(p.info["cmdline"] or "")
            ]
            (follower,) = [p for p in workers if p.pid != leader]
            told.append(lanes[0].name)
            follower.terminate()
            return True

        story = Story(lose_a_worker, tell_a_follower_to_go)
        driver = Driver(batch.state, batch.registry, "b", show_batch=story, poll_s=0.2, linger_s=5)
        records = driver.run()
    assert story.chapters == []
    assert [(r.status, r.lost) for r in records] == [("published", 1)] * 2
    assert {lane.workers for lane in story.lanes.values()} == {2}
    assert sum(bool(lane.host) for lane in story.lanes.values()) == 3  # those that ran
    story.check_work_lost(20)
    lines = [line.text for line in Reader(batch.state.storage).new("lanes", told[0])]
    assert lines[0].endswith("2 workers")
    assert lines[-2:] == ["stops: one of its workers must stop: SIGTERM", "ends: stopped"]

    foundation = load_foundation(WAN, device="cpu", dtype="float32")
    for name, work in batch.works.items():
        # One worker that goes forward twice in a step looks at the same samples as two.
        config = work.config.model_copy(update={"workers": 1, "gradient_accumulation": 2})
        alone = train_local(foundation, work.concept, prepare_work(work, foundation), config)["temporal"]
        folder = batch.registry.pull(batch.registry.resolve(name), tmp_path / name)
        assert difference(alone, read_adapter(folder).tensors) < 1e-4


def difference(one, other):
    def flat(tensors):
        return torch.cat([t.flatten().double() for name in sorted(tensors) for t in tensors[name]])

    return float((flat(one) - flat(other)).norm() / flat(one).norm())
