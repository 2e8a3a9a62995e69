"""Ray Serve's request router for engines: `serving.ray.routing` ranks them by their `record_routing_stats`.

It runs in the ingress, with the handle. Ray tries the replicas in the order given here and skips those
that are full or gone.
"""

import time
from dataclasses import dataclass
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from serving.ray import routing
from serving.requests import VideoRequest, cost_of

UNROUTED = 60.0  # seconds after which a placed request that was never sent is dropped


@dataclass(frozen=True)
class CallInfo:
    """The properties of a call that the choice depends on."""

    method: str
    adapters: tuple[str, ...] = ()
    size: float | None = None  # the video's work; None: the call has no video
    video: str | None = None  # id of the video that the call makes or is about

    @property
    def work(self) -> float:
        """The work that the call adds to an engine."""
        return self.size or 0.0 if self.method == "generate" else 0.0


def call_info(method: str, args: tuple[Any, ...]) -> CallInfo:
    """A call's adapters, work and video, from its arguments."""
    video = next((arg for arg in args if isinstance(arg, str)), None)
    for arg in args:
        if isinstance(arg, VideoRequest):
            names = {routing.key(use.path, use.sha256): None for use in arg.adapters}
            return CallInfo(method, tuple(names), cost_of(arg), video)
    return CallInfo(method, video=video)


class AdapterRouter(RequestRouter):
    """Sends requests to engines that have their adapters, as far as the load allows."""

    def initialize_state(self, slack: float = 4.0, **_: Any) -> None:
        """Called by Ray with `request_router_kwargs`."""
        self._choice = routing.Choice(slack)
        self._videos: dict[str, str] = {}  # running video -> replica
        self._calls: dict[str, CallInfo] = {}
        self._unrouted: dict[str, float] = {}  # call -> when it was placed on a replica

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas, best first, each as a separate rank."""
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        self._choice.update({id: routing.Report.of(r.routing_stats) for id, r in replicas.items()})
        if pending_request is None:
            return [[replicas[id]] for id in self._choice.rank()]
        pending_request.routing_context.should_backoff = True  # if all are full
        call = call_info(pending_request.metadata.call_method, tuple(pending_request.args))
        order = self._choice.rank(call.adapters, call.size)
        first = self._videos.get(call.video) if call.method == "preview" and call.video else None
        if first in replicas:
            order = [first, *(id for id in order if id != first)]
        # Record it now: of simultaneous calls, each must see those placed before it, not only those sent.
        self._place(pending_request.metadata.internal_request_id, order[0], call)
        return [[replicas[id]] for id in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Record where the request went, which may not be its first choice."""
        call = call_info(pending_request.metadata.call_method, tuple(pending_request.args))
        id = pending_request.metadata.internal_request_id
        self._place(id, replica_id.unique_id, call)
        self._unrouted.pop(id, None)
        if call.method == "generate" and call.video:
            self._videos[call.video] = replica_id.unique_id

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Drop a request that ended, was refused, or died with its replica."""
        self._forget(internal_request_id)

    def _place(self, id: str, replica: str, call: CallInfo) -> None:
        now = time.monotonic()
        for late in [late for late, at in self._unrouted.items() if now - at > UNROUTED]:
            self._forget(late)  # cancelled before it was sent
        self._calls[id], self._unrouted[id] = call, now
        self._choice.sent(id, replica, call.adapters, call.work)

    def _forget(self, id: str) -> None:
        call = self._calls.pop(id, None)
        self._unrouted.pop(id, None)
        self._choice.done(id)
        if call is not None and call.method == "generate" and call.video:
            self._videos.pop(call.video, None)
