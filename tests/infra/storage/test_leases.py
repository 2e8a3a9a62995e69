"""Objects that change by compare-and-swap: nothing is lost among many writers, and nobody tries without end."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from infra.errors import DamagedData, Unavailable
from infra.storage import leases, open_storage
from infra.storage.leases import Lease, Objects
from infra.storage.stored import parse


@dataclass(frozen=True)
class Count:
    number: int
    by: int = 0


@pytest.fixture
def counts(tmp_path):
    return Objects(open_storage(tmp_path), "counts/", lambda body, _: parse(Count, body), "delete it")


def one_more(count):
    return Count(1) if count is None else Count(count.number + 1)


def test_no_change_of_many_writers_is_lost(counts):
    with ThreadPoolExecutor(4) as pool:
        change = lambda by: counts.change("a", lambda count: replace(one_more(count), by=by))  # noqa: E731
        written = list(pool.map(change, range(20)))
    assert sorted(count.number for count in written) == list(range(1, 21))
    assert counts.get("a") == max(written, key=lambda count: count.number)


def test_who_has_nothing_to_change_writes_nothing(counts):
    assert counts.change("a", lambda count: None) is None
    assert counts.get("a") is None
    counts.change("a", one_more)
    assert counts.change("a", lambda count: None) is None
    assert counts.get("a") == Count(1)


@pytest.mark.parametrize("there", [False, True])
def test_an_own_write_whose_answer_was_lost_is_made_once(counts, monkeypatch, there):
    if there:
        counts.change("a", one_more)
    replace_if = type(counts.storage).replace_if
    monkeypatch.setattr(type(counts.storage), "replace_if", lambda *given: replace_if(*given) and False)
    assert counts.change("a", one_more) == counts.get("a") == Count(1 + there)


def test_an_object_that_goes_meanwhile_is_begun_anew(counts):
    counts.change("a", one_more)

    def step(count):
        if count is not None:
            counts.storage.delete("counts/a.json")
        return one_more(count)

    assert counts.change("a", step) == counts.get("a") == Count(1)


def test_an_object_that_changes_without_end_is_given_up(counts, monkeypatch):
    monkeypatch.setattr(leases, "SWAPS", 3)
    tries = []

    def step(count):
        tries.append(count)
        counts.storage.put("counts/a.json", b'{"number": -%d}' % len(tries))
        return one_more(count)

    with pytest.raises(Unavailable, match=r"other processes keep changing counts/a\.json of ") as caught:
        counts.change("a", step)
    assert (caught.value.code, len(tries)) == ("busy", 3)


def test_a_damaged_object_is_said_with_its_key_and_remedy(counts):
    counts.storage.put("counts/a.json", b"{}")
    for call in (lambda: counts.get("a"), lambda: counts.change("a", one_more)):
        with pytest.raises(DamagedData, match=r"counts/a\.json of .* is damaged .*; delete it\."):
            call()


def test_a_lease_is_over_at_its_end_and_of_a_clock_that_was_ahead_beyond_two_lengths():
    lease = Lease("o", "t", expires=100.0, seconds=10.0)
    assert [lease.is_over(now) for now in (99.9, 100.0)] == [False, True]
    assert [lease.is_ahead(now) for now in (79.9, 80.0)] == [True, False]
    assert lease.renewed(50.0) == replace(lease, expires=60.0)
    assert lease.renewed(50.0, 30.0) == replace(lease, expires=80.0, seconds=30.0)
