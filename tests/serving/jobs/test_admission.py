"""Who may add a job, on SQLite and on PostgreSQL: bounds that hold exactly, repeats that make nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from infra.errors import Conflict, Throttled, UserError
from serving.jobs.admission import Admission, IdempotencyKey
from serving.jobs.database import Job
from serving.jobs.jobs import JobStore
from serving.keys import ApiKey, hash_key


def key_of(name: str, **limits) -> ApiKey:
    return ApiKey(sha256=hash_key(name), **limits)


def ask(
    admission: Admission, key: ApiKey | None = None, idempotency: IdempotencyKey | None = None
) -> tuple[Job, bool]:
    tenant = key.tenant if key else ""
    return admission.admit({}, tenant=tenant, key=key, idempotency=idempotency, model="foundation")


def at_once(call: Callable[[], object], times: int = 16) -> tuple[list, list[Throttled]]:
    """(results, refusals) of that many threads."""

    def one(_number: int) -> object:
        try:
            return call()
        except Throttled as refused:
            return refused

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(times)))
    refusals = [answer for answer in answers if isinstance(answer, Throttled)]
    return [answer for answer in answers if not isinstance(answer, Throttled)], refusals


def test_of_many_at_once_exactly_as_many_are_queued_as_fit(store: JobStore):
    admission = Admission(store.database, max_queue=5)
    accepted, refused = at_once(lambda: ask(admission))
    assert len(accepted) == 5
    assert {one.code for one in refused} == {"queue_full"}
    assert all(one.retry_after > 0 for one in refused)
    assert store.count() == {"queued": 5}
    with pytest.raises(Throttled, match="queue is full"):
        admission.check("", None)


def test_those_that_are_looked_at_are_before_those_that_come_later(store: JobStore):
    admission = Admission(store.database, max_queue=2)
    with ExitStack() as looks:
        first, second, third = (looks.enter_context(admission.examine()) for _ in range(3))
        admission.check("", None, first)
        admission.check("", None, second)
        with pytest.raises(Throttled):
            admission.check("", None, third)
    with admission.examine() as later:
        admission.check("", None, later)
        ask(admission)
        ask(admission)
        with pytest.raises(Throttled, match="queue is full"):
            admission.check("", None, later)


def test_a_key_has_so_many_unfinished_jobs_and_others_are_not_held_up(store: JobStore):
    admission = Admission(store.database, max_queue=100)
    narrow, wide = key_of("narrow", concurrency=3), key_of("wide")
    accepted, refused = at_once(lambda: ask(admission, narrow))
    assert len(accepted) == 3
    assert {one.code for one in refused} == {"concurrency_exceeded"}
    ask(admission, wide)
    store.cancel(accepted[0][0].id)
    assert ask(admission, narrow)[1]
    with pytest.raises(Throttled):
        ask(admission, narrow)


def test_a_rate_lets_a_minutes_worth_through_and_says_when_the_next_may_come(store: JobStore):
    admission = Admission(store.database, max_queue=100)
    key, other = key_of("slow", requests_per_minute=4), key_of("other", requests_per_minute=4)
    accepted, refused = at_once(lambda: ask(admission, key))
    assert len(accepted) == 4
    assert {one.code for one in refused} == {"rate_exceeded"}
    assert all(0 < one.retry_after <= 15 for one in refused)
    assert ask(admission, other)[1]
    for job, _ in accepted:  # deleting what was made gives nothing back
        store.cancel(job.id)
        store.delete(job.id)
    with pytest.raises(Throttled):
        ask(admission, key)


def test_a_rate_below_one_a_minute_lets_one_through(store: JobStore):
    admission = Admission(store.database, max_queue=100)
    key = key_of("rare", requests_per_minute=0.5)
    ask(admission, key)
    with pytest.raises(Throttled) as caught:
        ask(admission, key)
    assert 60 < caught.value.retry_after <= 120


def test_the_same_key_and_body_at_once_make_one_job(store: JobStore):
    admission = Admission(store.database, max_queue=100)
    key = key_of("a", concurrency=1, requests_per_minute=1)
    same = IdempotencyKey.of("key-1", {"prompt": "a"})
    answers, refused = at_once(lambda: ask(admission, key, same))
    assert refused == []
    assert len({job.id for job, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1
    assert store.count() == {"queued": 1}
    assert admission.find(key.tenant, same).id == answers[0][0].id
    with pytest.raises(UserError) as caught:
        ask(admission, key, IdempotencyKey.of("key-1", {"prompt": "b"}))
    assert (type(caught.value), caught.value.code) == (Conflict, "idempotency_conflict")


def test_an_idempotency_key_is_a_tenants_own(store: JobStore):
    admission = Admission(store.database, max_queue=100)
    first, _ = ask(admission, key_of("a"), IdempotencyKey.of("key-1", {"prompt": "a"}))
    second, is_new = ask(admission, key_of("b"), IdempotencyKey.of("key-1", {"prompt": "b"}))
    assert is_new
    assert second.id != first.id


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a\n"])
def test_an_idempotency_key_that_is_none_is_refused(key: str):
    with pytest.raises(UserError) as caught:
        IdempotencyKey.of(key, {})
    assert caught.value.code == "invalid_idempotency_key"
