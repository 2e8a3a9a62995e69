"""The Ray Serve application: an ingress (API, jobs) and engines (each with the resident model).

Orchestration only; the work is in `serving.http.service` and `serving.ray.engine_service`. `motiondirector serve`
runs it; a cluster deploys it with `serve deploy` (`serving.cluster:build_app` if keys come from a file)
and a file like

    http_options: {host: 127.0.0.1, port: 8000}
    applications:
      - name: motiondirector
        import_path: serving.ray.deployment:build_app
        route_prefix: /
        args: {registry: "s3://bucket/registry", data_dir: /data/serve, engine_gpus: 1,
               replicas: 1, max_replicas: 4, target_seconds: 60}

An engine replica that dies is restarted by Serve; its jobs return to the queue meanwhile. Jobs of a dead
ingress return once its lease expires. Several ingresses may share one database.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application, metrics
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from serving.config import ServeConfig
from serving.engine_client import EngineLost
from serving.http.metrics import ENGINE, boundaries
from serving.http.service import max_in_flight
from serving.ray.engine_service import EngineService
from serving.ray.ingress import ENGINE_NAME, Ingress
from serving.trainings.trainer import Trainer

log = logging.getLogger(__name__)
APP_NAME = "motiondirector"
REPORT_INTERVAL = 1.0  # seconds between an engine's reports to the router
UPSCALE_DELAY, DOWNSCALE_DELAY = 10.0, 300.0  # seconds that a wish for more or fewer engines must last
HEAD = "node:__internal_head__"  # Ray's resource of the head node; a cluster of one machine has it too
DRAIN = 600.0  # seconds that a surplus engine has to finish its videos


class EngineMetrics:
    """An engine's observations as Ray metrics, which Prometheus reads from Ray's exporter."""

    def __init__(self) -> None:
        self._histograms: dict[str, metrics.Histogram] = {}
        self._gauges: dict[str, metrics.Gauge] = {}
        for name, (kind, description, labels) in ENGINE.items():
            full = f"motiondirector_engine_{name}"
            tags: Any = labels or None
            if kind == "histogram":
                self._histograms[name] = metrics.Histogram(
                    full, description=description, boundaries=list(boundaries(name)), tag_keys=tags
                )
            else:
                self._gauges[name] = metrics.Gauge(full, description=description, tag_keys=tags)

    def __call__(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        if name in self._histograms:
            self._histograms[name].observe(value, tags=dict(labels or {}))
        elif name in self._gauges:  # set unchanged values too: Ray drops a gauge that is not set
            self._gauges[name].set(value, tags=dict(labels or {}))


@serve.deployment(name=ENGINE_NAME, health_check_period_s=5, graceful_shutdown_timeout_s=10)
class EngineReplica(EngineService):
    """One resident model in its own process, which ends with its engine; Serve then starts another."""

    def __init__(self, config: ServeConfig) -> None:
        super().__init__(config, EngineMetrics(), name=serve.get_replica_context().replica_tag)

    def healthy(self) -> None:
        """End the process if the engine is dead."""
        try:
            super().healthy()
        except EngineLost:
            log.critical("the engine is dead; this process ends now", exc_info=True)
            os._exit(1)  # an orderly exit may wait for a device that no longer responds

    def check_health(self) -> None:
        """Called by Serve."""
        self.healthy()

    def record_routing_stats(self) -> dict[str, Any]:
        """Statistics for `serving.ray.router`."""
        return self.routing_report()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Statistics for `serving.ray.autoscaling`."""
        return dataclasses.asdict(self.load())


def scale(config: ServeConfig) -> dict[str, Any]:
    """Options of the engine deployment that set the number of engines."""
    if not config.autoscales:
        return {"num_replicas": config.replicas}
    assert config.max_replicas is not None
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=config.replicas,
            max_replicas=config.max_replicas,
            upscale_delay_s=UPSCALE_DELAY,
            downscale_delay_s=DOWNSCALE_DELAY,
            policy=AutoscalingPolicy(
                policy_function="serving.ray.autoscaling:WorkPolicy",
                policy_kwargs={"target_seconds": config.target_seconds},
            ),
        ),
        "graceful_shutdown_timeout_s": DRAIN,
    }


def for_engine(config: ServeConfig) -> ServeConfig:
    """The configuration for an engine, without keys, secrets and database, which only the ingress needs."""
    secrets: dict[str, Any] = {
        "api_keys": [],
        "api_key_hashes": [],
        "webhook_secret": None,
        "session_secret": None,
        "database": None,
    }
    return config.model_copy(update=secrets)


def build_app(config: ServeConfig) -> Application:
    """Build the application; `serve deploy` calls this with the file's `args`."""
    return bind(config)


def bind(
    config: ServeConfig,
    secrets: Callable[[ServeConfig], ServeConfig] | None = None,
    trainer: Callable[[ServeConfig], Trainer] | None = None,
    extend: Callable[[FastAPI], None] | None = None,
) -> Application:
    """Build the application.

    Args:
        secrets: adds the rest of the configuration on the ingress's node.
        trainer: makes there what learns concepts, if `config.train_lanes` is given.
        extend: adds routes of rooms above this one to the API, such as the studio's.
    """
    router: dict[str, Any] = {
        "request_router_class": "serving.ray.router:AdapterRouter",
        "request_router_kwargs": {"slack": config.max_batch / 2},
        "request_routing_stats_period_s": REPORT_INTERVAL,
    }
    engine = EngineReplica.options(  # type: ignore[attr-defined]
        **scale(config),
        request_router_config=RequestRouterConfig(**router),
        # Each job in hand is one ongoing request, and one engine must have room for all of them: Ray retries
        # only the oldest few requests without room, so checks of new jobs would wait behind jobs of lost
        # engines. The engine's own queue is fair, and all dispatchers together limit it.
        max_ongoing_requests=max_in_flight(config, config.most_replicas) + 64,
        ray_actor_options={"num_cpus": config.engine_cpus, "num_gpus": config.engine_gpus},
    ).bind(for_engine(config))
    place: dict[str, Any] = {"num_cpus": 0}
    # SQLite is a file on one machine: the head node, because workers come and go
    if config.database_url.startswith("sqlite"):
        place["resources"] = {HEAD: 0.001}
    return Ingress.options(ray_actor_options=place).bind(config, engine, secrets, trainer, extend)  # type: ignore[attr-defined]
