"""Serves videos over HTTP during a block: `motiondirector serve` as a function."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.errors import Conflict, UserError
from infra.registry import DEFAULT_REGISTRY, open_registry
from motiondirector.library.library import fill_if_new
from serving.config import ServeConfig, check_exposure
from serving.sessions import kept_secret, read_session_secret
from serving.tenants.namespaces import split_name


@dataclass(frozen=True)
class Server:
    """A running server at `url`; its API page is at `url`/docs, its studio at `url`/studio."""

    url: str
    concepts: tuple[str, ...]  # names of everyone's in the registry when the server started
    needs_key: bool = False
    has_studio: bool = True

    @property
    def model(self) -> str:
        """An example of a model that requests can name."""
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
    """Serve during the block: one resident model; each request chooses its motion.

        with serve(ServeConfig(registry="runs/registry"), port=0) as server:
            generate("a red star", GenerateConfig(concept="orbit"), server=server.url)

    Unfinished jobs continue at the next start with the same `data_dir`.

    Args:
        config: model, engines, jobs, API keys; the command's options.
        host: address to listen on; beyond loopback only with API keys.
        port: 0 chooses a free one.
        address: Ray cluster to run on; None starts one here.
        on_loading: called when Ray runs, before the model is loaded.

    Raises:
        UserError: the port is taken, there is no API key beyond loopback, the foundation is invalid, or the cluster has
            no room or already runs Ray Serve.
    """
    from infra.ray.cluster import check_workers, ray_session, variables
    from models.load import family_of, locate
    from serving.ray.gate import environment
    from serving.tenants.api_keys import has_keys

    given = config or ServeConfig()
    made = for_every_process(given)
    needs_key = bool(made.keys) or has_keys(made.database_url)
    check_exposure(host, needs_key)
    port = check_port(host, port)
    family_of(locate(made.foundation), made.foundation or "the embedded foundation")
    fill_if_new(str(given.registry or DEFAULT_REGISTRY), given.foundation)
    made = with_session_secret(made)
    names = [concept.name for concept in open_registry(str(made.registry)).concepts()]
    concepts = tuple(name for name in names if split_name(name)[0] is None)
    with (
        variables(environment(made.keys, needs_key, made.session_secret)),
        ray_session(address),
    ):  # a cluster that is started here inherits these variables, including its proxies
        check_workers(made.replicas, gpus=made.engine_gpus, cpus=made.engine_cpus)
        from ray import serve as ray_serve

        from motiondirector.service.lanes import running_lanes
        from motiondirector.service.trainer import open_trainer
        from motiondirector.studio.app import add_studio
        from serving.ray.deployment import APP_NAME, bind

        check_no_serve()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            on_loading()
            ray_serve.start(http_options={"host": host, "port": port})
            application = bind(made, trainer=open_trainer, extend=add_studio if made.studio else None)
            ray_serve.run(application, name=APP_NAME, route_prefix="/")
            with running_lanes(made.train_lanes or 0, str(made.registry), made.foundation, made.device):
                yield Server(f"http://{host}:{port}", concepts, needs_key, made.studio)
        finally:
            ray_serve.shutdown()


def for_every_process(config: ServeConfig) -> ServeConfig:
    """The same configuration with absolute paths, because engines run in other folders."""
    found = {"data_dir": config.data_dir, "registry": config.registry or DEFAULT_REGISTRY}
    found |= {name: getattr(config, name) for name in ("database_file", "results") if getattr(config, name)}
    if config.foundation is not None and Path(config.foundation).exists():  # otherwise it is a name or id
        found["foundation"] = config.foundation
    return config.model_copy(update={name: absolute(place) for name, place in found.items()})


def with_session_secret(config: ServeConfig) -> ServeConfig:
    """The configuration with a secret for the studio's sessions, also if the first key is made later.

    The environment's, or one that stays in the data folder. Raises UserError if neither can be had.
    """
    if not config.studio or config.session_secret is not None:
        return config
    return config.model_copy(
        update={"session_secret": read_session_secret() or kept_secret(Path(config.data_dir))}
    )


def absolute(place: str) -> str:
    """The absolute path of a folder; a URI unchanged."""
    return place if "://" in place else str(Path(place).absolute())


def check_port(host: str, port: int) -> int:
    """The port to listen on (0: a free one). Raises UserError if it is taken or the host is not this machine's."""
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
    """Raises UserError if Ray Serve already runs on the session's cluster, with its own host and port.

    So at its end the block stops only what it started.
    """
    from ray import serve as ray_serve

    status = ray_serve.status()
    if status.applications or status.proxies:
        names = ", ".join(sorted(status.applications)) or "no application"
        raise Conflict(
            f"Ray Serve is already running on this cluster ({names}); stop it there with `serve shutdown`, or add this "
            "application to it with `serve deploy` (serving/ray/deployment.py shows the file).",
            code="serve_running",
        )
