"""`motiondirector serve`: the Ray Serve application on this machine or on a cluster, until Ctrl-C.

Its options are `ServeConfig`'s fields.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.options import add_command
from serving.config import ServeConfig, check_exposure, make_config

if TYPE_CHECKING:
    from infra.registry import ConceptInfo, Registry


def serve(
    registry: RegistryUri = DEFAULT_REGISTRY,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with API keys, one a line (or sha256:<hex>), or YAML with tenants, quotas and scopes."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on, such as auto. Absent: one on this machine.")
    ] = None,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Serve videos over HTTP: one resident model, the motion chosen by each request.

    [bold]Examples[/]

    motiondirector serve --registry runs/registry

    motiondirector serve --registry s3://bucket/registry --host 0.0.0.0 --api-key-file keys.txt --gpus 1

    The API has the shape of OpenAI's videos API; its page is at /docs. Without keys (--api-key-file, or
    MOTIONDIRECTOR_API_KEY) it listens on loopback only. MOTIONDIRECTOR_WEBHOOK_SECRET (whsec_...) signs webhooks. Ctrl-C stops it; jobs that have not finished go on at the
    next start with the same --data-dir.
    """
    from infra.cluster import check_workers, ray_session, variables
    from infra.registry import open_registry
    from models.load import family_of, locate
    from serving.gate import environment
    from serving.keys import read_api_keys, read_webhook_secret

    keys = read_api_keys(api_key_file)
    check_exposure(host, keys)
    port = check_port(host, port)
    foundation = settings.get("foundation")
    family_of(locate(foundation), foundation or "the embedded foundation")
    concepts = concepts_of(open_registry(absolute(registry)))
    made = make_config(
        **in_folders_of_this_process(settings),
        registry=absolute(registry),
        api_keys=keys,
        webhook_secret=read_webhook_secret(),
    )
    check_database(made)
    with (
        variables(environment(keys)),
        ray_session(address),
    ):  # a cluster that is started has them, its proxies too
        check_workers(made.replicas, gpus=made.engine_gpus, cpus=made.engine_cpus)
        from ray import serve as ray_serve

        from serving.deployment import APP_NAME, build_app

        check_no_serve()
        # after Ray has set its own: `kill` ends it as cleanly as Ctrl-C, also when started in the background
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            typer.echo("loading the model ...", err=True)
            ray_serve.start(http_options={"host": host, "port": port})
            ray_serve.run(build_app(made), name=APP_NAME, route_prefix="/")
            model = f"foundation:{concepts[0].name}" if concepts else "foundation"
            typer.echo(greeting(f"http://{host}:{port}", model, len(concepts), bool(keys)))
            while True:
                time.sleep(1.0)
        except KeyboardInterrupt:
            typer.echo("stopping ...", err=True)
        finally:
            ray_serve.shutdown()


def concepts_of(registry: Registry) -> list[ConceptInfo]:
    """List the concepts; warn when the registry's folder does not exist (yet)."""
    if not registry.storage.root_exists():
        typer.echo(
            f"--registry {registry.uri} does not exist; until it does, requests for concepts are answered with 503 "
            "(publishing a concept makes it).",
            err=True,
        )
    return registry.concepts()


def absolute(place: str) -> str:
    """A folder as other processes find it; a URI as it is."""
    return place if "://" in place else str(Path(place).absolute())


def in_folders_of_this_process(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `ServeConfig`, with files and folders by absolute paths: engines run in other folders."""
    found = {"data_dir": ServeConfig.model_fields["data_dir"].default, **settings}
    for name in ("data_dir", "database_file", "results"):
        if name in found:
            found[name] = absolute(found[name])
    if "foundation" in found and Path(found["foundation"]).exists():  # else the name of one
        found["foundation"] = absolute(found["foundation"])
    return found


def greeting(url: str, model: str, concepts: int, keys: bool) -> str:
    """What to do with the server."""
    key = " -H 'Authorization: Bearer '$MOTIONDIRECTOR_API_KEY" if keys else ""
    return f"""serving at {url} ({concepts} concepts; API page: {url}/docs)

  curl -s {url}/v1/videos{key} -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "prompt": "a red square on a gray background", "seed": 7}}'
  motiondirector generate --server {url} --prompt "a red square on a gray background" --seed 7 -o out.mp4

Ctrl-C stops it."""


def check_database(settings: ServeConfig) -> None:
    """Say that a password is seen. Raises UserError for a file that holds no URL."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    url = settings.database_url
    with contextlib.suppress(ArgumentError):  # the service says so
        if settings.database is not None and make_url(url).password:
            typer.echo(
                "--database has a password, which everybody on this machine can read in the process list; "
                "give it by --database-file, PGPASSWORD or ~/.pgpass.",
                err=True,
            )


def check_port(host: str, port: int) -> int:
    """The port to listen on (0: one that is free). Raises UserError when it is taken or the host is not ours."""
    from infra.errors import UserError

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

    So what ends with this command is what it has started.
    """
    from ray import serve as ray_serve

    from infra.errors import Conflict

    status = ray_serve.status()
    if status.applications or status.proxies:
        names = ", ".join(sorted(status.applications)) or "no application"
        raise Conflict(
            f"Ray Serve runs on this cluster already ({names}); end it there with `serve shutdown`, or have it serve "
            "videos as well with `serve deploy` (serving/deployment.py shows the file).",
            code="serve_running",
        )


def register(app: typer.Typer) -> None:
    """Add `serve`, its settings taken from `ServeConfig`."""
    add_command(app, "serve", serve, ServeConfig)
