"""`motiondirector serve`: the Ray Serve application on this machine or on a cluster, until Ctrl-C.

Its options are `ServeConfig`'s fields.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.options import add_command
from serving.config import ServeConfig, make_config

if TYPE_CHECKING:
    from motiondirector.api.serve import Server


def serve(
    registry: RegistryUri = DEFAULT_REGISTRY,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with API keys, one per line (or sha256:<hex>), or YAML with tenants, quotas and scopes."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on, such as auto. Absent: one on this machine.")
    ] = None,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Serve videos over HTTP: one resident model; each request chooses its motion.

    [bold]Examples[/]

    motiondirector serve --registry runs/registry

    motiondirector serve --registry s3://bucket/registry --host 0.0.0.0 --api-key-file keys.txt --gpus 1

    The API has the form of OpenAI's videos API; its page is at /docs. Without keys (--api-key-file, or
    MOTIONDIRECTOR_API_KEY) the server listens only on loopback. MOTIONDIRECTOR_WEBHOOK_SECRET (whsec_...) signs webhooks,
    MOTIONDIRECTOR_SESSION_SECRET the sessions of the studio at /studio (absent: a secret that stays in --data-dir).
    Ctrl-C stops the server; unfinished jobs continue at the next start with the same --data-dir.
    """
    from motiondirector.api.serve import absolute
    from motiondirector.api.serve import serve as served
    from serving.keys import read_api_keys, read_webhook_secret

    chosen = make_config(
        **settings,
        registry=registry,
        api_keys=read_api_keys(api_key_file),
        webhook_secret=read_webhook_secret(),
    )
    check_database(chosen)
    if chosen.train_lanes is None:  # otherwise the trainer creates it
        check_registry(absolute(registry))

    def loading() -> None:
        # Replaces Ray's handlers: `kill` ends the server as cleanly as Ctrl-C, also if it runs in the background.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        typer.echo("loading the model ...", err=True)

    with served(chosen, host=host, port=port, address=address, on_loading=loading) as server:
        typer.echo(greeting(server))
        try:
            while True:
                time.sleep(1.0)
        except KeyboardInterrupt:
            typer.echo("stopping ...", err=True)


def greeting(server: Server) -> str:
    """The text that is printed when the server is ready: its address and example requests."""
    key = " -H 'Authorization: Bearer '$MOTIONDIRECTOR_API_KEY" if server.needs_key else ""
    url, model = server.url, server.model
    studio = f"\nstudio: {url}/studio" if server.has_studio else ""
    return f"""serving at {url} ({len(server.concepts)} concepts; API page: {url}/docs){studio}

  curl -s {url}/v1/videos{key} -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "prompt": "a red square on a gray background", "seed": 7}}'
  motiondirector generate --server {url} --prompt "a red square on a gray background" --seed 7 -o out.mp4

Ctrl-C stops it."""


def check_registry(uri: str) -> None:
    """Warn if the registry's folder does not exist (yet)."""
    from infra.registry import open_registry

    if not (opened := open_registry(uri)).storage.root_exists():
        typer.echo(
            f"--registry {opened.uri} does not exist; until it does, requests for concepts are answered with 503 "
            "(publishing a concept creates it).",
            err=True,
        )


def check_database(settings: ServeConfig) -> None:
    """Warn about a password in the process list. Raises UserError if --database-file contains no URL."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    url = settings.database_url
    with contextlib.suppress(ArgumentError):  # the service reports an invalid URL
        if settings.database is not None and make_url(url).password:
            typer.echo(
                "--database contains a password, which every user of this machine can read in the process list; "
                "use --database-file, PGPASSWORD or ~/.pgpass instead.",
                err=True,
            )


def register(app: typer.Typer) -> None:
    """Add `serve`, its settings taken from `ServeConfig`."""
    add_command(app, "serve", serve, ServeConfig)
