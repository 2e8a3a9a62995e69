"""`train-batch` over S3: its process is killed, its storage unsteady and then away; every concept is published once."""

import os
import random
import subprocess
import sys
import time

import pytest
from clip_sets import sliding_clips, write_set
from faults import Cut, Endless, LoseAnswer, Refuse, faulty

from infra.registry import open_registry
from training.batch.state.state import open_batch

pytestmark = pytest.mark.faults  # minutes: claims of the dead run out

NAMES = ("a", "b", "c")
STEPS = 300
REGISTRY = "s3://tests/unsteady"


class Command:
    """The same command, again and again."""

    def __init__(self, place, environment):
        self.place, self.environment = place, environment

    def start(self):
        command = "-m motiondirector train-batch batch.yaml --no-evaluate --registry"
        return subprocess.Popen(
            [sys.executable, *command.split(), REGISTRY],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def records():
    """Read past the proxy."""
    return open_batch(open_registry(REGISTRY).storage, "batch").records()


def until(true, child, seconds=300):
    """`true`, as long as the child lives."""
    end = time.monotonic() + seconds
    while not true():
        assert child.poll() is None, child.communicate()[0][-3000:]
        assert time.monotonic() < end
        time.sleep(0.2)


def begun():
    kept = open_registry(REGISTRY).storage.list("batches/batch/concepts/")
    return sum(1 for _ in kept) == len(NAMES)


def trained():
    return {record.name: record.checkpoint_step for record in records()}


def test_a_batch_outlives_its_process_and_a_storage_that_errs_and_goes_away(tmp_path, s3):
    write_set(tmp_path / "clips", *(clip for name in NAMES for clip in sliding_clips(name, count=1)))
    (tmp_path / "batch.yaml").write_text(
        "defaults: {data: clips, foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32, rank: 4, "
        f"steps: {STEPS}, checkpoint_interval: 20, gradient_accumulation: 4}}\n"
        f"concepts: [{', '.join(NAMES)}]\n"
    )
    (open_registry(REGISTRY).storage).put("marker", b"")  # the bucket is there
    with faulty(s3.endpoint) as proxy:
        environment = {**os.environ, **s3.env, "AWS_ENDPOINT_URL": proxy.endpoint, "OMP_NUM_THREADS": "1"}
        command = Command(tmp_path, environment)
        children = [command.start()]
        try:
            until(begun, children[0])
            until(lambda: any(trained().values()), children[0])
            children[0].kill()
            children[0].wait()
            killed = trained()
            assert not all(record.ended for record in records())

            kinds = [Refuse(503, "SlowDown"), Refuse(500, "InternalError"), Cut(), LoseAnswer()]
            chance = random.Random(1)
            proxy.faults = [chance.choice([*kinds, *[None] * 16]) for _ in range(200)]
            children.append(command.start())
            until(lambda: all(trained()[name] > killed[name] for name in NAMES), children[1])
            proxy.faults, before = Endless(Refuse(503, "ServiceUnavailable")), len(proxy.seen)
            until(lambda: len(proxy.seen) >= before + 20, children[1])  # more than it tries for one object
            proxy.faults = []
            told, _ = children[1].communicate(timeout=400)
            assert children[1].returncode == 0, told[-3000:]
            assert "warning: the storage is available again after" in told
        finally:
            for child in children:
                child.kill()
    assert {record.name: record.status for record in records()} == dict.fromkeys(NAMES, "published")
    registry = open_registry(REGISTRY)
    for name in NAMES:
        (version,) = registry.versions(name)
        assert version.metadata["steps"] == STEPS
    assert {record.lost for record in records()} == {1}  # by the process that was killed
    assert list(registry.storage.list("batches/batch/checkpoints/")) == []
