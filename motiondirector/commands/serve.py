"""`motiondirector serve`: the Ray Serve application on this machine or on a cluster, until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motiondirector.cli import ConfigFile

if TYPE_CHECKING:
    from serving.config import ServeConfig


def serve(
    foundation: Annotated[
        str | None, typer.Option(help="Model folder or hub id. Absent: the embedded one.")
    ] = None,
    registry: Annotated[
        str,
        typer.Option(help="Folder or s3:// URI of the concept registry.", envvar="MOTIONDIRECTOR_REGISTRY"),
    ] = "runs/registry",
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="Motions (temporal adapters) on the device at once.", show_default="8"),
    ] = None,
    spatial_slots: Annotated[
        int | None, typer.Option(min=0, help="Appearances on the device at once.", show_default="4")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Largest rank of an adapter.", show_default="32")
    ] = None,
    slot_memory: Annotated[
        int | None,
        typer.Option(min=1, help="Bytes for adapters on the device; slots and rank follow, unless given."),
    ] = None,
    compile: Annotated[
        bool, typer.Option(help="torch.compile the model at start, for videos of --warm-size.")
    ] = False,
    warm_size: Annotated[
        list[str] | None,
        typer.Option(
            help="FRAMESxHEIGHTxWIDTH of videos to measure and compile for; repeatable. Absent: the foundation's.",
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Videos in one denoising step.")] = 8,
    data_dir: Annotated[Path, typer.Option(help="Jobs, videos and fetched adapters.")] = Path("runs/serve"),
    database: Annotated[
        str | None,
        typer.Option(
            help="SQLAlchemy URL of the jobs; a password in it can be read in the process list: see --database-file. "
            "Absent: SQLite in --data-dir."
        ),
    ] = None,
    database_file: Annotated[
        Path | None, typer.Option(help="File that holds the URL of --database, with its password.")
    ] = None,
    results: Annotated[
        str | None, typer.Option(help="Folder or s3:// URI of the videos. Absent: in --data-dir.")
    ] = None,
    results_ttl: Annotated[
        float | None, typer.Option(min=1, help="Seconds a video is kept.", show_default="a week")
    ] = None,
    job_ttl: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Seconds after its end that a job is kept, with its prompt and its video at most.",
            show_default="30 days",
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Engines, each with the model.")] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Engines at most; as many as the work wants. Absent: --replicas."),
    ] = None,
    target_seconds: Annotated[
        float, typer.Option(min=0.1, help="With --max-replicas: seconds in which all work is to be done.")
    ] = 60.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of an engine.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ... Absent: a GPU if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with API keys, one a line (or sha256:<hex>), or YAML with tenants, quotas and scopes."
        ),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Queued jobs; beyond, requests are refused at once.")
    ] = 1000,
    webhook_network: Annotated[
        list[str] | None,
        typer.Option(
            help="Network (10.1.0.0/16) that webhooks may call though it is not public; repeatable."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on, such as auto. Absent: one on this machine.")
    ] = None,
    config: ConfigFile = None,
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
    from serving.config import check_exposure, make_config
    from serving.gate import environment
    from serving.keys import read_api_keys, read_webhook_secret

    keys = read_api_keys(api_key_file)
    check_exposure(host, keys)
    port = check_port(host, port)
    family_of(locate(foundation), foundation or "the embedded foundation")
    registry = registry if "://" in registry else str(Path(registry).absolute())
    concepts = open_registry(registry).concepts()
    given: dict[str, float | None] = {"slots": slots, "spatial_slots": spatial_slots, "rank": rank}
    given |= {"results_ttl": results_ttl, "job_ttl": job_ttl}
    settings = make_config(
        foundation=foundation
        if foundation is None or not Path(foundation).exists()
        else str(Path(foundation).absolute()),
        device=device,
        dtype=dtype,
        registry=registry,
        data_dir=str(data_dir.absolute()),
        database=database,
        database_file=None if database_file is None else str(database_file.absolute()),
        results=results if results is None or "://" in results else str(Path(results).absolute()),
        slot_memory=slot_memory,
        compile=compile,
        warm_sizes=warm_size or [],
        max_batch=max_batch,
        replicas=replicas,
        max_replicas=max_replicas,
        target_seconds=target_seconds,
        engine_gpus=gpus,
        api_keys=keys,
        max_queue=max_queue,
        webhook_secret=read_webhook_secret(),
        webhook_networks=webhook_network or [],
        # what is absent has its default, or follows from slot_memory
        **{name: value for name, value in given.items() if value is not None},
    )
    check_database(settings)
    with (
        variables(environment(keys)),
        ray_session(address),
    ):  # a cluster that is started has them, its proxies too
        check_workers(replicas, gpus=gpus, cpus=settings.engine_cpus)
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
            ray_serve.run(build_app(settings), name=APP_NAME, route_prefix="/")
            model = f"foundation:{concepts[0].name}" if concepts else "foundation"
            typer.echo(greeting(f"http://{host}:{port}", model, len(concepts), bool(keys)))
            while True:
                time.sleep(1.0)
        except KeyboardInterrupt:
            typer.echo("stopping ...", err=True)
        finally:
            ray_serve.shutdown()


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
    """Add `serve` to the command line."""
    app.command()(serve)
