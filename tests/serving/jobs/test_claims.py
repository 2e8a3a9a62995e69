"""Who runs which job, on SQLite and on PostgreSQL: one dispatcher a job, fair turns, leases."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter

import pytest
from sqlalchemy import select, update

from serving.jobs.claims import SUSPECT_ATTEMPTS, Claims
from serving.jobs.database import Flow, Job
from serving.jobs.jobs import IllegalTransition, JobStore, new_job

COMPLETE = {"key": "results/x.mp4", "sha256": "0" * 64, "size": 3, "timings": {}, "expires_at": 0.0}


@pytest.fixture
def claims(store: JobStore) -> Claims:
    return Claims(store.database)


def add(store: JobStore, tenants: str, **fields) -> list[str]:
    """One job of each tenant, in this order."""
    return [store.add({}, model="foundation", tenant=tenant, **fields).id for tenant in tenants]


def claim_all(url: str, name: str, gate, taken, together: int | None) -> None:
    store = JobStore(url)
    claims = Claims(store.database)
    gate.wait()
    while jobs := claims.claim(name, 3, together):
        taken.put((name, [job.id for job in jobs]))
    store.close()


def claimed_by_four(store: JobStore, url: str, together: int | None = None) -> list[tuple[str, list[str]]]:
    """What four processes take, three jobs at once, until they are given no more."""
    store.close()  # its connections are not for the children
    context = multiprocessing.get_context("fork")
    gate, taken = context.Barrier(4), context.SimpleQueue()
    workers = [
        context.Process(target=claim_all, args=(url, f"d{n}", gate, taken, together)) for n in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = []
    while not taken.empty():
        found.append(taken.get())
    return found


def test_many_processes_that_claim_at_once_share_the_jobs_and_none_is_taken_twice(store: JobStore, url: str):
    ids = add(store, "abcabcabc" * 6)
    found: list[str] = []
    for name, claimed in claimed_by_four(store, url):
        assert len(claimed) <= 3
        assert all(store.get(id).owner == name for id in claimed)
        found += claimed
    assert sorted(found) == sorted(ids)


def test_all_who_claim_at_once_have_no_more_in_hand_than_engines_are_given(
    store: JobStore, claims: Claims, url: str
):
    ids = add(store, "a" * 40)
    claimed = [id for _, ids in claimed_by_four(store, url, together=10) for id in ids]
    assert len(claimed) == len(set(claimed)) == 10
    assert claims.claim("late", 5, together=10) == []
    assert len(claims.claim("late", 5, together=12)) == 2  # an engine more
    store.cancel(claimed[0])
    store.start(claimed[1])
    store.complete(claimed[1], **COMPLETE)
    assert len(claims.claim("late", 5, together=12)) == 2  # an end makes room for whoever asks first
    assert store.count()["queued"] == len(ids) - 2


def test_what_must_run_alone_takes_no_room_from_the_others(store: JobStore, claims: Claims):
    """A dispatcher has many of these in hand and runs one at a time."""
    for id in add(store, "aaa"):
        for _ in range(SUSPECT_ATTEMPTS):
            store.start(id)
            store.requeue(id)
    assert len(claims.claim("d", 3, together=3)) == 3
    add(store, "bbbb")
    assert len(claims.claim("other", 9, together=3)) == 3


def test_turns_go_round_the_tenants(store: JobStore, claims: Claims):
    ids = add(store, "aaaaab") + add(store, "c")
    taken = [job.id for job in claims.claim("d", 3)]
    assert taken == [ids[0], ids[5], ids[6]]
    add(store, "bc")
    second = {job.tenant for job in claims.claim("d", 3)}
    assert second == {"a", "b", "c"}


def test_what_waits_beyond_its_deadline_is_taken_out_of_turn_by_one(store: JobStore, claims: Claims):
    def add(deadline: float | None) -> str:
        return store.add({"deadline": deadline}, model="foundation").id

    now = time.time()
    [begun] = [add(now - 9)]
    claims.claim("d", 1)
    _, _, *late = [add(None), add(now + 1000), add(now - 2), add(now - 1), add(now - 3)]
    assert [job.id for job in claims.claim_late("d", 2)] == late[:2]
    assert [job.id for job in claims.claim_late("other", 9)] == late[2:]
    assert claims.claim_late("d", 9) == []
    assert claims.held("d") == {begun, *late[:2]}


def work(store: JobStore, claims: Claims, flows: dict[tuple[str, float], int], rounds: int) -> Counter:
    """Claims by (tenant, weight) while 32 jobs are in hand and each flow has so many waiting; four end at a time."""
    counts: Counter = Counter()
    in_hand: list[Job] = []
    missing = Counter(flows)
    for _ in range(rounds):
        ended, in_hand = in_hand[:-28], in_hand[-28:]
        with store.database.sessions.begin() as session:
            session.execute(
                update(Job).where(Job.id.in_([job.id for job in ended])).values(state="completed", owner=None)
            )
            for (tenant, weight), number in missing.items():
                session.add_all(new_job({}, model="m", tenant=tenant, weight=weight) for _ in range(number))
        taken = claims.claim("d", 32 - len(in_hand))
        in_hand += taken
        missing = Counter((job.tenant, job.weight) for job in taken)
        counts += missing
    return counts


@pytest.mark.parametrize(
    "flows",
    [
        [("a", 1.0), ("a", 1 / 8)],
        [("a", 8.0), ("b", 1.0)],
        [("a", 64.0), ("b", 1.0)],
        [("a", 1.0), ("a", 1 / 64), ("b", 1.0)],
        [("a", 8.0), ("a", 1.0), ("b", 1.0), ("c", 1 / 8)],
    ],
)
def test_shares_are_as_the_weights_also_of_many_jobs_in_hand(
    store: JobStore, claims: Claims, flows: list[tuple[str, float]]
):
    counts = work(store, claims, dict.fromkeys(flows, 40), rounds=26)
    assert counts.total() == 32 + 25 * 4
    for flow in flows:
        due = counts.total() * flow[1] / sum(weight for _, weight in flows)
        assert abs(counts[flow] - due) <= 1, counts


def test_a_light_job_comes_up_also_while_there_are_ever_new_tenants(store: JobStore, claims: Claims):
    [light] = add(store, "a", weight=1 / 8)
    add(store, "bb", weight=1.0)
    order = []
    for n in range(40):
        store.add({}, model="foundation", tenant=f"new{n}")
        order += [job.id for job in claims.claim("d", 1)]
    assert light in order


def test_who_was_away_has_saved_nothing_up_and_owes_nothing(store: JobStore, claims: Claims):
    add(store, "b" + "a" * 24)
    claims.claim("d", 13)
    add(store, "b" * 8)
    back = [job.tenant for job in claims.claim("d", 8)]
    assert (back.count("a"), back.count("b")) == (4, 4)
    add(store, "c" * 4)
    assert Counter(job.tenant for job in claims.claim("d", 6)) == {"a": 2, "b": 2, "c": 2}
    with store.database.sessions() as session:
        kept = {flow.tenant for flow in session.scalars(select(Flow))}
    while claims.claim("d", 5):
        pass
    assert kept == {"a", "b", "c"}
    with store.database.sessions() as session:  # of those that do not wait only what tells the time
        ends = [flow.served for flow in session.scalars(select(Flow))]
    assert len(set(ends)) == 1


def test_a_weighty_job_has_more_turns_and_a_light_one_still_has_its_own(store: JobStore, claims: Claims):
    [light, *_] = add(store, "a" * 12, weight=1.0)
    heavy = add(store, "b" * 12, weight=8.0)
    taken = [job.id for job in claims.claim("d", 9)]
    assert sum(id in heavy for id in taken) == 8
    assert light in taken


def test_the_order_that_is_told_is_that_of_the_claims(store: JobStore, claims: Claims):
    add(store, "aab" + "b" * 3 + "c")
    add(store, "aac", weight=8.0)
    told = claims.order()
    assert len(told) == 10
    taken: list[str] = []
    while claimed := claims.claim("d", 1):
        taken += [job.id for job in claimed]
    assert taken == told
    assert claims.order() == []


def test_only_the_jobs_of_a_dead_dispatcher_come_back(store: JobStore, claims: Claims):
    ids = add(store, "aaaa")
    dead = Claims(store.database, lease=-1.0)  # it has run out before it begins
    for job in dead.claim("dead", 2):
        store.start(job.id, owner="dead")
        store.note(job.id, progress=40, timings={"queue": 1.0}, owner="dead")
        break
    alive = [job.id for job in claims.claim("alive", 1)]
    store.start(alive[0], owner="alive")
    assert claims.reclaim() == 2
    assert claims.reclaim() == 0
    again = claims.claim("alive", 9)
    assert [job.id for job in again] == [ids[0], ids[1], ids[3]]
    assert [job.attempts for job in again] == [0, 0, 0], "no engine was lost"
    assert (again[0].progress, again[0].timings, again[0].started_at) == (0, {}, None)
    assert store.state(alive[0]) == "in_progress"


def test_a_dispatcher_that_was_held_dead_can_change_its_former_jobs_no_more(store: JobStore, claims: Claims):
    [id] = add(store, "a")
    Claims(store.database, lease=-1.0).claim("old", 1)
    store.start(id, owner="old")
    claims.reclaim()
    claims.claim("new", 1)
    store.start(id, owner="new")
    assert (claims.held("old"), claims.held("new")) == (set(), {id})
    store.note(id, progress=90, timings={}, owner="old")
    assert store.get(id).progress == 0
    for move in (
        lambda: store.complete(id, **COMPLETE, owner="old"),
        lambda: store.fail(id, code="c", message="m", owner="old"),
        lambda: store.requeue(id, owner="old"),
    ):
        with pytest.raises(IllegalTransition):
            move()
    store.complete(id, **COMPLETE, owner="new")


def test_a_renewed_lease_holds_and_what_is_not_renewed_does_not(store: JobStore, claims: Claims):
    kept, forgotten = add(store, "ab")
    Claims(store.database, lease=-1.0).claim("d", 2)
    claims.renew("d", [kept])
    assert claims.reclaim() == 1
    assert claims.held("d") == {kept}
    assert store.get(forgotten).owner is None


def test_who_stops_lets_go_at_once_and_it_counts_as_no_attempt(store: JobStore, claims: Claims):
    [id] = add(store, "a")
    claims.claim("d", 1)
    store.start(id, owner="d")
    assert claims.release("d") == 1
    job = store.get(id)
    assert (job.state, job.attempts, job.owner) == ("queued", 0, None)


def test_an_end_is_nobodys(store: JobStore, claims: Claims):
    [id] = add(store, "a")
    claims.claim("d", 1)
    store.cancel(id)
    assert claims.held("d") == set()
    assert store.get(id).owner is None
