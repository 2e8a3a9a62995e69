"""A clock that was a day ahead and is right again: nobody is locked out, and no dead dispatcher's job is kept, until that day.

On SQLite and on PostgreSQL. What such a clock has written is written here by an UPDATE.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from serving_helpers import Publish
from sqlalchemy import text

from infra.errors import Throttled
from serving.adapters.files import IN_USE, AdapterFiles
from serving.jobs.admission import Admission
from serving.jobs.claims import LEASE, Claims
from serving.jobs.jobs import JobStore
from serving.jobs.webhooks import PAUSES, SPREAD, Deliveries
from serving.keys import ApiKey, hash_key
from serving.ray.autoscaling import Load, seconds_of_work
from serving.requests import AdapterUsed

DAY = 86_400.0


def change(store: JobStore, statement: str, **values: float) -> None:
    with store.database.sessions.begin() as session:
        session.execute(text(statement), values)


def lease_left(store: JobStore) -> float:
    """Seconds that the only job's lease still holds."""
    [job], _ = store.page()
    assert job.lease_until is not None
    return job.lease_until - time.time()


def test_a_dead_dispatchers_job_is_free_a_lease_later_not_a_day(store: JobStore):
    claims = Claims(store.database)
    id = store.add({}, model="foundation").id
    assert claims.claim("dead", 1)
    change(store, "UPDATE jobs SET lease_until = lease_until + :day", day=DAY)
    assert claims.reclaim() == 0  # its owner may live
    assert LEASE / 2 < lease_left(store) <= LEASE + 1
    change(store, "UPDATE jobs SET lease_until = lease_until - :lease", lease=LEASE + 2)
    assert claims.reclaim() == 1
    assert [job.id for job in claims.claim("other", 1)] == [id]


def test_a_dispatcher_that_lives_keeps_its_job_through_the_correction(store: JobStore):
    claims = Claims(store.database)
    id = store.add({}, model="foundation").id
    claims.claim("alive", 1)
    change(store, "UPDATE jobs SET lease_until = lease_until + :day", day=DAY)
    assert claims.reclaim() == 0
    claims.renew("alive", [id])
    assert claims.reclaim() == 0
    assert claims.held("alive") == {id}


def test_a_lease_of_this_clock_is_not_touched(store: JobStore):
    claims = Claims(store.database)
    store.add({}, model="foundation")
    claims.claim("alive", 1)
    change(
        store, "UPDATE jobs SET lease_until = lease_until + :some", some=LEASE / 2
    )  # clocks differ a little
    before = lease_left(store)
    claims.reclaim()
    assert abs(lease_left(store) - before) < LEASE / 4


@pytest.mark.parametrize("per_minute", [2, 0.5])
def test_a_key_is_not_locked_out_and_its_rate_holds_again(store: JobStore, per_minute: float):
    key = ApiKey(sha256=hash_key("a-key-of-a-tenant"), requests_per_minute=per_minute)
    admission = Admission(store.database, max_queue=100)

    def asked() -> int:
        """Videos that the key gets until it is throttled."""
        for number in range(100):
            try:
                admission.admit({}, tenant=key.tenant, key=key, idempotency=None, model="foundation")
            except Throttled:
                return number
        raise AssertionError("never throttled")

    burst = max(1, int(per_minute))
    assert asked() == burst
    change(store, "UPDATE rates SET arrival = arrival + :day", day=DAY)
    assert asked() == burst
    assert asked() == 0


def test_a_webhook_that_is_due_in_a_day_is_due_now_and_a_pause_is_kept(store: JobStore):
    deliveries = Deliveries(store.database)
    id = store.add({}, model="foundation", webhook_url="http://127.0.0.1:1/").id
    store.fail(id, code="c", message="m")
    change(store, "UPDATE deliveries SET next_at = next_at + :day", day=DAY)
    taken = deliveries.take()
    assert taken is not None
    for attempts, pause in enumerate(PAUSES, 1):
        change(store, "UPDATE deliveries SET attempts = :attempts", attempts=attempts)
        deliveries.finish(taken, error="away", pause=(1 + SPREAD) * pause)
        assert deliveries.take() is None, pause  # as long as a pause may be
        change(store, "UPDATE deliveries SET next_at = next_at + :day", day=DAY)
        assert deliveries.take() is not None, pause


def test_a_file_that_was_used_tomorrow_can_go(unet3d, registry, publish: Publish, tmp_path: Path):
    """Else the folder would be fuller than it may be until that day."""

    def use(name: str, seed: int) -> AdapterUsed:
        version = publish(unet3d, name, seed=seed)
        return AdapterUsed(concept=name, version=1, path="temporal", scale=1.0, sha256=version.adapter_sha256)

    first, second, third = use("a", 1), use("b", 2), use("c", 3)
    folder = tmp_path / "cache"
    other_engine = AdapterFiles(registry, unet3d, folder)
    for one in (first, second):
        other_engine.read(one)
    files = AdapterFiles(registry, unet3d, folder, capacity=1)
    assert set(files.resident()) == {first.sha256, second.sha256}  # used a moment ago
    for one, at in ((first, time.time() + DAY), (second, time.time() + DAY + IN_USE)):
        os.utime(folder / f"{one.sha256}.safetensors", (at, at))
    files.read(third)
    assert first.sha256 not in files.resident()


def test_the_newest_word_of_the_backlog_is_known_by_its_age():
    loads = [Load(pace=1.0, backlog=900.0, age=DAY), Load(pace=1.0, backlog=5.0, age=2.0), Load(pace=1.0)]
    assert seconds_of_work(loads) == 5.0
