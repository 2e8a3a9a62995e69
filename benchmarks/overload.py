"""Latency of a caller with a key while others occupy connections, with and without the server's limits.

    python benchmarks/overload.py                              # both sides, every attack; about six minutes on two cores
    python benchmarks/overload.py --connections 1000 --seconds 10 --json overload.json

All sides are the same server (Ray Serve's proxy, one ingress, one engine with a tiny model) on loopback, one after the
other in the same run. `before` limits neither waiting requests (512 run at once) nor unfinished bodies and has no gate in the
proxy. `bounds` has only the limits, like a cluster whose nodes do not configure the gate. `now` is what `motiondirector serve`
starts. All load goes to 127.0.0.1 and ends with the script.

Attacks: `keyless`, connections without a key that send another request a second after each answer; `keyless-bodies`, the same
with a POST whose body never arrives; `slow-bodies`, POSTs of one key whose bodies never arrive, while another key is measured.
The measured caller has a key and sends GET /v1/videos four times a second, each on a new connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from serving.config import ServeConfig
from serving.keys import ApiKey, hash_key

CALLER, SLOW = "the-key-of-the-caller-who-is-measured", "the-key-of-one-who-sends-slow-bodies"
ATTACKS = ("keyless", "keyless-bodies", "slow-bodies")
SIDES = ("before", "bounds", "now")
PATIENCE = 60.0  # seconds after which a request counts as unanswered
ASK_AGAIN = 1.0  # seconds between a connection's answer and its next request


def request_of(attack: str) -> bytes:
    """The bytes that a connection of the attack sends."""
    if attack == "keyless":
        return b"GET /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    key = f"Authorization: Bearer {SLOW}\r\n" if attack == "slow-bodies" else ""
    head = f"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\n"
    return f"{head}Content-Length: 1000\r\n\r\n{{".encode()


async def connection(port: int, sent: bytes, delay: float, until: float, statuses: Counter[str]) -> None:
    """One connection of the attack, reopened whenever it is closed."""
    await asyncio.sleep(delay)
    while time.monotonic() < until:
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    while True:
                        writer.write(sent)
                        head = await reader.readuntil(b"\r\n\r\n")
                        statuses[head[9:12].decode()] += 1
                        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                        await reader.readexactly(int(length or 0))
                        await asyncio.sleep(ASK_AGAIN)
                        if b"POST" in sent:
                            break  # otherwise the server would read the next request as this body
            finally:
                writer.close()
        await asyncio.sleep(0.2)


def attack(port: int, kind: str, connections: int, seconds: float, ready: Any, results: Any) -> None:
    """Run the attack in a separate process, so that it takes no time from the caller."""

    async def run() -> None:
        until, statuses = time.monotonic() + seconds, Counter[str]()
        each = [
            connection(port, request_of(kind), number / connections, until, statuses)
            for number in range(connections)
        ]
        ready.set()
        await asyncio.gather(*each)
        results.put(dict(statuses))

    asyncio.run(run())


async def ask(port: int, path: str = "/v1/videos") -> tuple[float, str]:
    """(seconds, status) of one request with a key, from connecting to the answer."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            lines = [
                f"GET {path} HTTP/1.1",
                "Host: 127.0.0.1",
                f"Authorization: Bearer {CALLER}",
                "Connection: close",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.read(65536)
            writer.close()
            return time.monotonic() - began, head[9:12].decode() or "closed"
    except TimeoutError:
        return time.monotonic() - began, "none"
    except OSError:
        return time.monotonic() - began, "refused"


async def caller(port: int, seconds: float) -> list[tuple[float, str]]:
    """Send four requests a second, without waiting for earlier ones."""
    tasks = []
    for _ in range(int(4 * seconds)):
        tasks.append(asyncio.create_task(ask(port)))
        await asyncio.sleep(0.25)
    return await asyncio.gather(*tasks)


@contextlib.contextmanager
def server(side: str, port: int) -> Iterator[None]:
    """A side's server on loopback, running until the block ends."""
    from infra.ray.cluster import ray_session, variables
    from serving.ray.gate import environment

    with tempfile.TemporaryDirectory() as folder:
        keys = [ApiKey(sha256=hash_key(key)) for key in (CALLER, SLOW)]
        bodies = {"max_bodies": 10**6} if side == "before" else {}
        config = ServeConfig(
            foundation="tiny-random:unet3d", data_dir=folder, threads=1, api_keys=keys, **bodies
        )
        with variables(environment(keys, True) if side == "now" else {}), ray_session("local", num_cpus=2):
            from ray import serve

            serve.start(http_options={"host": "127.0.0.1", "port": port})
            try:
                serve.run(application(side, config), name="overload", route_prefix="/")
                yield
            finally:
                serve.shutdown()


def application(side: str, config: ServeConfig) -> Any:
    """The application that the side serves."""
    from serving.ray import deployment

    app = deployment.build_app(config)
    if side != "before":
        return app
    ingress = app._bound_deployment
    return ingress.options(max_queued_requests=-1).bind(*ingress.init_args)


def summary(
    side: str, kind: str, connections: int, answers: list[tuple[float, str]], attackers: dict[str, int]
) -> dict[str, Any]:
    seconds = sorted(second for second, _ in answers)
    return {
        "side": side,
        "attack": kind,
        "connections": connections,
        "median_seconds": statistics.median(seconds),
        "p95_seconds": seconds[int(0.95 * (len(seconds) - 1))],
        "most_seconds": seconds[-1],
        "answers": dict(Counter(status for _, status in answers)),
        "answers_to_the_others": attackers,
    }


def measure(side: str, port: int, options: argparse.Namespace, tell: Any) -> list[dict[str, Any]]:
    context, rows = multiprocessing.get_context("spawn"), []
    with server(side, port):
        asyncio.run(caller(port, 2))  # warm
        for kind in options.attacks:
            for connections in options.connections if kind != "slow-bodies" else [options.slow_bodies]:
                tell(f"{side}: {kind}, {connections} connections")
                ready, results = context.Event(), context.Queue()
                process = context.Process(
                    target=attack, args=(port, kind, connections, options.seconds + 2, ready, results)
                )
                process.start()
                ready.wait(60)
                time.sleep(2.0)  # until all are connected
                answers = asyncio.run(caller(port, options.seconds))
                others = results.get(timeout=120)
                process.join(60)
                rows.append(summary(side, kind, connections, answers, others))
                tell(json.dumps(rows[-1]))
                end = time.monotonic() + 120
                while asyncio.run(ask(port))[0] > 0.3 and time.monotonic() < end:
                    time.sleep(1.0)  # until leftover requests are done
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    made.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    made.add_argument("--connections", nargs="+", type=int, default=[1000, 3000])
    made.add_argument("--slow-bodies", type=int, default=700)
    made.add_argument("--seconds", type=float, default=15.0, help="duration of each attack")
    made.add_argument("--port", type=int, default=8765)
    made.add_argument("--json", type=Path)
    options = made.parse_args(arguments)
    console = Console()
    rows = [row for side in options.sides for row in measure(side, options.port, options, console.print)]
    table = Table(title=f"GET /v1/videos with a key, {os.cpu_count()} cores")
    for column in ("attack", "connections", "side", "median s", "p95 s", "max s", "answers"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["attack"],
            str(row["connections"]),
            row["side"],
            *(f"{row[name]:.2f}" for name in ("median_seconds", "p95_seconds", "most_seconds")),
            ", ".join(f"{number} x {status}" for status, number in sorted(row["answers"].items())),
        )
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
