"""Ray's side of the choice: what it reads of a call and of a report, and what it remembers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest
from serving_helpers import sha, use, video_request

from serving.ray.routing import key
from serving.requests import cost_of

REQUEST = video_request(adapters=(use("orbit"),))
ORBIT = key("temporal", sha("orbit", "temporal"))


class Handle:
    """The router as Ray makes it (from its pickle), with replicas that report what a test says."""

    def __init__(self, **stats: dict) -> None:
        config = RequestRouterConfig(
            request_router_class="serving.ray.router:AdapterRouter", request_router_kwargs={"slack": 4.0}
        )
        kind = config.get_request_router_class()
        self.router = kind.__new__(kind)  # without the event loop and the gauges of a true handle
        self.router.initialize_state(**config.request_router_kwargs)
        self.stats, self.number = stats, 0

    def call(self, method: str, *args: object, arrives: bool = True) -> tuple[str, str]:
        """(the replica chosen, the call's id)"""
        self.number += 1
        metadata = SimpleNamespace(call_method=method, internal_request_id=str(self.number))
        replicas = [
            SimpleNamespace(replica_id=SimpleNamespace(unique_id=id), routing_stats=stats)
            for id, stats in self.stats.items()
        ]

        async def choose() -> list:
            pending = PendingRequest(args=list(args), kwargs={}, metadata=metadata)
            ranks = await self.router.choose_replicas(replicas, pending)
            assert pending.routing_context.should_backoff
            assert sorted(r.replica_id.unique_id for rank in ranks for r in rank) == sorted(self.stats)
            if arrives:
                self.router.on_request_routed(pending, ranks[0][0].replica_id, None)
            return ranks

        return asyncio.run(choose())[0][0].replica_id.unique_id, metadata.internal_request_id

    def ended(self, replica: str, id: str) -> None:
        self.router.on_request_completed(SimpleNamespace(unique_id=replica), id)


@pytest.mark.parametrize("method", ["generate", "check"])
def test_a_request_goes_to_the_replica_that_reported_its_adapter(method):
    args = ("v", REQUEST) if method == "generate" else (REQUEST,)
    for holder in "xyz":
        stats = {id: {"slots": [ORBIT]} if id == holder else {} for id in "xyz"}
        assert Handle(**stats).call(method, *args)[0] == holder


def test_a_holder_with_far_more_work_is_passed():
    handle = Handle(x={}, y={"slots": [ORBIT], "work": 10 * cost_of(REQUEST)})
    assert handle.call("generate", "v", REQUEST)[0] == "x"


def test_many_at_once_spread_though_none_has_arrived_or_been_reported_yet():
    handle = Handle(x={}, y={})
    base = REQUEST.model_copy(update={"adapters": ()})
    got = [handle.call("generate", str(n), base, arrives=False)[0] for n in range(10)]
    assert got.count("x") == got.count("y") == 5


def test_ended_calls_leave_nothing_behind():
    handle = Handle(x={}, y={})
    for n in range(20):
        handle.ended(*handle.call("generate", str(n), REQUEST))
    router = handle.router
    assert not router._calls and not router._unrouted and not router._videos and not router._choice._sent  # noqa: PT018
    assert router._choice.load("x") == router._choice.load("y") == 0.0


def test_a_preview_asks_the_replica_that_makes_the_video():
    handle = Handle(x={}, y={}, z={})
    made = {f"v{n}": handle.call("generate", f"v{n}", REQUEST)[0] for n in range(40)}
    assert set(made.values()) == {"x", "y", "z"}
    for video, replica in made.items():
        assert handle.call("preview", video)[0] == replica
