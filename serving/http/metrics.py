"""Metrics for Prometheus: the ingress's own and those of engines, under one prefix."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.jobs.jobs import QUEUED, STATES
from serving.jobs.usage import UsageTotal

PREFIX = "motiondirector"
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
LONG_SECONDS = (*SECONDS, 100.0, 300.0, 1000.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
USAGE = {
    "jobs": "Completed videos and trainings",
    "frames": "Frames of completed videos",
    "steps": "Steps of completed jobs",
    "device_seconds": "Seconds of a device",
    "bytes": "Bytes of completed videos",
}
MAX_ADAPTERS = 256  # adapters counted by name; others count together as "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Metrics that an engine reports (its `observe`): (kind, description, labels). Counts are gauges of the total.
ENGINE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "step_seconds": ("histogram", "Time of one denoising step of a batch.", ()),
    "batch_size": ("histogram", "Requests in a denoising step.", ()),
    "batch_adapters": ("histogram", "Distinct adapters in a denoising step.", ()),
    "queue_seconds": ("histogram", "Time from a request's arrival at the engine to its first step.", ()),
    "load_seconds": ("histogram", "Time to load an adapter into a tier.", ("tier",)),
    "waiting": ("gauge", "Requests waiting to be admitted to a batch.", ()),
    "active": ("gauge", "Requests being denoised.", ()),
    "queue_age_seconds": ("gauge", "How long the engine's oldest waiting request has waited.", ()),
    "slot_hits": ("gauge", "Adapters that were in a slot when their request was admitted, so far.", ()),
    "slot_misses": ("gauge", "Adapters that were in no slot when their request was admitted, so far.", ()),
    "slot_loads": ("gauge", "Copies into slots so far.", ()),
    "recompilations": ("gauge", "Graphs compiled after warm-up, so far.", ()),
    "uncompiled_forwards": ("gauge", "Forwards that no graph compiled at warm-up covers, so far.", ()),
}


def boundaries(name: str) -> tuple[float, ...]:
    """The bucket boundaries of one of the histograms above."""
    return SECONDS if name.endswith("_seconds") else COUNTS


class BoundedLabels:
    """Limits label values to `most` names, so that clients cannot create series with invented names."""

    def __init__(self, most: int = MAX_ADAPTERS) -> None:
        self._most, self._known = most, set[str]()

    def __call__(self, name: str) -> str:
        if name in self._known or len(self._known) < self._most:
            self._known.add(name)
            return name
        return "other"


class ServiceMetrics:
    """An ingress's metrics. Jobs and queue are read from the database at each scrape."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry if registry is not None else CollectorRegistry()

        def counter(name: str, description: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", description, labels, registry=registry)

        def gauge(name: str, description: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", description, labels, registry=registry)

        self._jobs = gauge("jobs", "Jobs in the database, by state.", "state")
        self._queue_length = gauge("queue_length", "Queued jobs.")
        self._queue_age = gauge("queue_age_seconds", "How long the oldest queued job has waited.")
        self.trainings = gauge("trainings", "Trainings in the database, by state.", "state")
        self.streams = gauge("event_streams", "Event streams open on this ingress.")
        self._accepted = counter("jobs_accepted", "Jobs accepted by this ingress.")
        self._ended = counter("jobs_ended", "Jobs ended by this ingress, by state.", "state")
        self._adapters = counter("adapter_requests", "Jobs accepted, by adapter.", "adapter")
        self._webhooks = counter("webhook_attempts", "Webhook calls, by outcome.", "outcome")
        self._requests = counter("http_requests", "HTTP requests.", "method", "route", "status")
        self._seconds = Histogram(
            f"{PREFIX}_http_request_seconds",
            "Time from an HTTP request to the start of its answer.",
            ("method", "route"),
            registry=registry,
            buckets=SECONDS,
        )
        self._stages = Histogram(
            f"{PREFIX}_job_seconds",
            "Time that completed jobs spent in a stage.",
            ("stage",),
            registry=registry,
            buckets=LONG_SECONDS,
        )
        self._adapter_names, self._tenant_names = BoundedLabels(), BoundedLabels()
        self._usage = {
            name: gauge(f"usage_{name}", f"{what} of all time, in the database.", "tenant", "kind")
            for name, what in USAGE.items()
        }

    def accepted(self, adapters: list[str]) -> None:
        """Count an accepted job and its adapters (`concept@version`)."""
        self._accepted.inc()
        for name in dict.fromkeys(adapters):
            self._adapters.labels(self._adapter_names(name)).inc()

    def ended(self, state: str, timings: Mapping[str, float]) -> None:
        """Count an ended job; `timings` are seconds by stage."""
        self._ended.labels(state).inc()
        for stage, seconds in timings.items():
            self._stages.labels(stage).observe(seconds)

    def webhook(self, outcome: str) -> None:
        """Count a webhook call."""
        self._webhooks.labels(outcome).inc()

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def queue(self, counts: Mapping[str, int], oldest: float | None) -> None:
        """Set jobs by state, and when the oldest queued job was accepted (Unix seconds)."""
        for state in STATES:
            self._jobs.labels(state).set(counts.get(state, 0))
        self._queue_length.set(counts.get(QUEUED, 0))
        self._queue_age.set(max(0.0, time.time() - oldest) if oldest is not None else 0.0)

    def usage(self, totals: Iterable[UsageTotal]) -> None:
        """Set what each tenant used of all time; beyond the first MAX_ADAPTERS tenants, together as `other`."""
        sums: dict[tuple[str, str], dict[str, float]] = {}
        for total in totals:
            labels = (self._tenant_names(total.tenant), total.kind)
            found = sums.setdefault(labels, dict.fromkeys(USAGE, 0.0))
            for name in USAGE:
                found[name] += getattr(total, name)
        for name, of in self._usage.items():
            of.clear()  # a tenant may have been erased
            for labels, found in sums.items():
                of.labels(*labels).set(found[name])

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class MeasuredRequests:
    """Counts HTTP requests by route, not path, so that clients cannot create series with invented paths."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answered = time.monotonic(), False

        def note(status: int) -> None:
            nonlocal answered
            answered = True
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.http(method, route, status, time.monotonic() - began)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            if not answered:
                note(500)  # an outer handler answers with 500
            raise
