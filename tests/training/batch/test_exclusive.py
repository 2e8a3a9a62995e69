"""A concept's clips are encoded once, whichever lanes come to them at the same moment, and nobody waits for long."""

import threading
import time

import pytest

from datasets.clip_sets.latents import LatentCache
from infra.storage import open_storage
from training.batch.latents.prepare import prepare_work
from training.batch.state import exclusive as module
from training.batch.state.exclusive import exclusive, preparation_task, preparation_tasks

NEVER = threading.Event()


@pytest.fixture
def work(house, tmp_path):
    """A concept of two clips, none of them prepared."""
    from clip_sets import sliding_clips, write_set

    house.clips = write_set(tmp_path / "fresh", *sliding_clips("c1", count=2))
    return house.add("c1")["c1"]


def task(work):
    return preparation_task(work.name, work.sha256)


def cached(work):
    return len(list(LatentCache(open_storage(work.data)).storage.list()))


def together(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_lanes_that_come_to_a_concept_at_once_encode_its_clips_once(
    house, house_foundation, work, monkeypatch
):
    encode, threads = house_foundation.encode_both, []

    def encode_both(video):
        threads.append(threading.current_thread().name)
        time.sleep(0.3)  # long enough for the other to come to the same clip
        return encode(video)

    monkeypatch.setattr(house_foundation, "encode_both", encode_both)
    found = {}

    def lane(owner):
        with exclusive(preparation_tasks(house.state(), owner), task(work), NEVER):
            found[owner] = prepare_work(work, house_foundation, threading.Lock())

    together(lambda: lane("one"), lambda: lane("two"))
    assert len(threads) == work.clips == 2
    assert len(set(threads)) == 1
    assert [clip.sha256 for clip in found["one"]] == [clip.sha256 for clip in found["two"]]


def test_a_lane_prepares_what_it_took_when_another_is_through_with_it(house, work, monkeypatch):
    other, prepared = preparation_tasks(house.state(), "another"), threading.Event()
    assert other.take(task(work))

    def prepare(*arguments):
        prepared.set()
        return prepare_work(*arguments)

    monkeypatch.setattr("training.batch.lane.lane.prepare_work", prepare)
    lane = threading.Thread(target=house.lane().run)
    lane.start()
    assert not prepared.wait(1.5)
    assert cached(work) == 0
    assert other.done(task(work), {"error": None})
    lane.join()
    assert house.statuses() == {"c1": "published"}
    assert preparation_tasks(house.state(), "late").get(task(work)).result is not None


def waited(tasks, work, patience_s):
    """Seconds until the block is entered, and whether these tasks' owner then held the task."""
    began = time.monotonic()
    with exclusive(tasks, task(work), NEVER, patience_s):
        return time.monotonic() - began, tasks.get(task(work)).token == tasks.token


def test_what_a_dead_process_held_is_taken_over_and_what_a_slow_one_holds_is_waited_for_a_while(
    house, work, monkeypatch
):
    monkeypatch.setattr(module, "POLL_S", 0.05)
    slow, lane = preparation_tasks(house.state(), "slow"), preparation_tasks(house.state(), "lane")
    assert slow.take(task(work))
    seconds, mine = waited(lane, work, 0.2)
    assert seconds >= 0.2
    assert not mine
    own_thread = preparation_tasks(house.state(), "slow")
    assert waited(own_thread, work, 60)[0] < 10  # they share a lock
    house.clock.now += house.batch.lease_s + 1
    seconds, mine = waited(lane, work, 60)
    assert seconds < 10
    assert mine
    assert not slow.done(task(work), {"error": None})


def test_what_one_fails_to_prepare_the_next_makes(house, work):
    one, two = preparation_tasks(house.state(), "one"), preparation_tasks(house.state(), "two")
    with pytest.raises(RuntimeError), exclusive(one, task(work), NEVER):
        raise RuntimeError("the decoder died")
    seconds, mine = waited(two, work, 60)
    assert seconds < 10
    assert mine
    assert one.get(task(work)).result == {"error": None}
