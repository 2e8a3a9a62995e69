"""Videos over HTTP as long as a block lasts: `motiondirector serve` as a function."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.errors import Conflict, UserError
from infra.registry import DEFAULT_REGISTRY, open_registry
from serving.config import ServeConfig, check_exposure


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`; its API page is at `url`/docs."""

    url: str
    concepts: tuple[str, ...]  # names, as the registry had them when it started
    needs_key: bool = False

    @property
    def model(self) -> str:
        """A model that requests may name."""
        return f"foundation:{self.concepts[0]}" if self.concepts else "foundation"


@contextmanager
def serve(
    config: ServeConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    address: str | None = None,
    on_loading: Callable[[], None] = lambda: None,
) -> Iterator[Server]:
    """Serve while the block lasts: one resident model, the motion chosen by each request.

        with serve(ServeConfig(registry="runs/registry"), port=0) as server:
            generate("a red star", GenerateConfig(concept="orbit"), server=server.url)

    Jobs that have not finished go on at the next start with the same `data_dir`.

    Args:
        config: model, engines, jobs, who may ask; the command's options.
        host: address to listen on; beyond loopback only with API keys.
        port: 0 takes a free one.
        address: Ray cluster to run on; None starts one here.
        on_loading: called when Ray runs and before the model is loaded.

    Raises:
        UserError: a port that is taken, no key beyond loopback, a foundation that is none, a cluster without room or with
            a Ray Serve of its own.
    """
    from infra.ray.cluster import check_workers, ray_session, variables
    from models.load import family_of, locate
    from serving.ray.gate import environment

    made = for_every_process(config or ServeConfig())
    check_exposure(host, made.keys)
    port = check_port(host, port)
    family_of(locate(made.foundation), made.foundation or "the embedded foundation")
    concepts = tuple(concept.name for concept in open_registry(str(made.registry)).concepts())
    with (
        variables(environment(made.keys)),
        ray_session(address),
    ):  # a cluster that is started has them, its proxies too
        check_workers(made.replicas, gpus=made.engine_gpus, cpus=made.engine_cpus)
        from ray import serve as ray_serve

        from serving.ray.deployment import APP_NAME, build_app

        check_no_serve()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            on_loading()
            ray_serve.start(http_options={"host": host, "port": port})
            ray_serve.run(build_app(made), name=APP_NAME, route_prefix="/")
            yield Server(f"http://{host}:{port}", concepts, bool(made.keys))
        finally:
            ray_serve.shutdown()


def for_every_process(config: ServeConfig) -> ServeConfig:
    """The same with files and folders by absolute paths: engines run in other folders."""
    found = {"data_dir": config.data_dir, "registry": config.registry or DEFAULT_REGISTRY}
    found |= {name: getattr(config, name) for name in ("database_file", "results") if getattr(config, name)}
    if config.foundation is not None and Path(config.foundation).exists():  # else the name of one
        found["foundation"] = config.foundation
    return config.model_copy(update={name: absolute(place) for name, place in found.items()})


def absolute(place: str) -> str:
    """A folder as other processes find it; a URI as it is."""
    return place if "://" in place else str(Path(place).absolute())


def check_port(host: str, port: int) -> int:
    """The port to listen on (0: one that is free). Raises UserError when it is taken or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port (0 takes a free one)."
        ) from None


def check_no_serve() -> None:
    """Raises UserError when Ray Serve runs on the session's cluster: it has its host and port, and may be somebody's.

    So what ends with this block is what it has started.
    """
    from ray import serve as ray_serve

    status = ray_serve.status()
    if status.applications or status.proxies:
        names = ", ".join(sorted(status.applications)) or "no application"
        raise Conflict(
            f"Ray Serve runs on this cluster already ({names}); end it there with `serve shutdown`, or have it serve "
            "videos as well with `serve deploy` (serving/ray/deployment.py shows the file).",
            code="serve_running",
        )
