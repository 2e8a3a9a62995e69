"""Writes a job database as the present code makes it: a dump of SQLite and one of PostgreSQL, with jobs in each state.

    python tests/serving/databases/make.py 0005         # writes 0005-sqlite.sql and 0005-postgresql.sql beside it

Run it and commit the dumps before you change the tables: the tests bring every dump in this folder up to date. The dumps
0002 to 0004 were made with the code of their time.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from postgres import PACKAGE, postgres  # noqa: E402
from sqlalchemy.engine import make_url  # noqa: E402

from serving.jobs.claims import Claims  # noqa: E402
from serving.jobs.database import Pin, Rate, Server  # noqa: E402
from serving.jobs.jobs import JobStore  # noqa: E402

REQUEST = {
    "prompt": "a bear",
    "negative_prompt": "",
    "frames": 4,
    "height": 32,
    "width": 32,
    "fps": 8,
    "seed": 1,
    "steps": 2,
    "guidance_scale": 1.0,
    "scheduler": None,
    "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "a" * 64}],
    "tenant": "alice",
    "priority": 0,
    "deadline": None,
}
FOUNDATION = "f" * 64
PIN = {
    "foundation": FOUNDATION,
    "path": "temporal",
    "sha256": "a" * 64,
    "concept": "orbit",
    "version": 1,
    "pinned": True,
    "revision": 1,
}


def fill(url: str) -> None:
    """Two jobs in each state. The second of them has a foundation, an idempotency key and a webhook."""
    store = JobStore(url)
    claims = Claims(store.database, lease=3600.0)
    for state in ("completed", "failed", "cancelled", "in_progress", "queued"):
        for tenant in ("alice", "bob"):
            request, fields = {**REQUEST, "tenant": tenant, "prompt": f"a bear, {state}"}, {}
            if tenant == "bob":
                request["foundation"] = FOUNDATION
                fields = {
                    "idempotency_key": f"key-{state}",
                    "body_sha256": "b" * 64,
                    "webhook_url": "https://example.com/hook",
                }
            id = store.add(request, model="tiny:orbit@1", tenant=tenant, **fields).id
            if state in ("completed", "failed", "in_progress"):
                claims.claim("host-1", 9)
                store.start(id, owner="host-1")
                store.note(id, progress=50, timings={"queue": 0.5}, owner="host-1")
            if state == "completed":
                result = {"key": f"{id}.mp4", "sha256": "c" * 64, "size": 3, "expires_at": 4e9}
                store.complete(id, **result, timings={"queue": 0.5, "denoise": 2.0}, neighbours=1)
            elif state == "failed":
                store.fail(id, code="out_of_memory", message="it does not fit")
            elif state == "cancelled":
                store.cancel(id)
    with store.database.sessions.begin() as session:
        session.add(Rate(tenant="alice", arrival=1_700_000_000.5))
        session.add(Pin(**PIN))
        session.add(Server(foundation=FOUNDATION, seen=1_700_000_000.5))
    store.close()


def dump_sqlite(file: Path) -> str:
    with sqlite3.connect(file) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def dump_postgresql(url: str) -> str:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec
    assert spec.origin
    program = Path(spec.origin).parent / "pginstall" / "bin" / "pg_dump"
    parsed = make_url(url)
    command = [
        program,
        "--inserts",
        "--no-owner",
        "-h",
        parsed.query["host"],
        "-U",
        parsed.username,
        "postgres",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = (line for line in done.stdout.splitlines() if line and not line.startswith(("--", "\\")))
    return "\n".join(lines) + "\n"


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.sqlite"
        fill(f"sqlite:///{file}")
        (HERE / f"{name}-sqlite.sql").write_text(dump_sqlite(file))
    with postgres() as url:
        fill(url)
        (HERE / f"{name}-postgresql.sql").write_text(dump_postgresql(url))


if __name__ == "__main__":
    main(sys.argv[1])
