"""The doctor's probes of codecs, DeepSpeed, Ray and a storage. Each runs a small real operation."""

from __future__ import annotations

import contextlib
import io
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from infra.errors import UserError

if TYPE_CHECKING:
    from infra.storage import Storage


@dataclass(frozen=True)
class Check:
    """One finding. `fail`: something that the commands need does not work; `warn`: it works with limits."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def check_codecs() -> Iterator[Check]:
    """Check that PyAV writes h264, and that PyAV and decord read it back."""
    remedy = "pip install --force-reinstall av decord -c constraints.txt"
    try:
        import av
        import numpy as np

        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as writer:
            stream = writer.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for level in range(0, 240, 30):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
                writer.mux(stream.encode(frame))
            writer.mux(stream.encode())
        with av.open(io.BytesIO(buffer.getvalue()), "r") as reader:
            frames = len(list(reader.decode(video=0)))
        assert frames == 8, f"{frames} of 8 frames came back"
        yield Check("av", "ok", f"encodes and decodes h264 ({av.__version__})")
    except Exception as error:
        yield Check("av", "fail", f"h264: {type(error).__name__}: {error}", remedy)
        return
    try:
        import decord

        frames = len(decord.VideoReader(io.BytesIO(buffer.getvalue())))
        assert frames == 8, f"{frames} of 8 frames came back"
        yield Check("decord", "ok", f"decodes h264 ({decord.__version__})")
    except Exception as error:
        yield Check("decord", "warn", f"{type(error).__name__}: {error}; PyAV decodes instead", remedy)


def check_deepspeed() -> Iterator[Check]:
    """Check that DeepSpeed imports: it looks for compilers and GPUs at import."""
    script = "import deepspeed; print(deepspeed.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    if done.returncode == 0:
        yield Check("deepspeed import", "ok", done.stdout.split()[-1])
    else:
        reason = (done.stderr.strip().splitlines() or ["?"])[-1][:300]
        yield Check(
            "deepspeed import",
            "fail",
            reason,
            "pip install deepspeed -c constraints.txt, with DS_BUILD_OPS=0",
        )


def check_ray(address: str | None) -> Iterator[Check]:
    """Start Ray (or attach) and run a task that imports this project."""
    from infra.ray.cluster import ray_session

    with contextlib.redirect_stderr(io.StringIO()), ray_session(address) as cluster:
        import ray

        @ray.remote(num_cpus=0)  # an idle cluster may be only a head node, without CPUs for tasks
        def probe() -> str:
            import infra.paths

            return f"Python {platform.python_version()}, {infra.paths.ROOT}"

        try:
            worker = ray.get(probe.remote(), timeout=120)
        except (ray.exceptions.RayError, ModuleNotFoundError) as error:
            reason = " ".join(str(error).split())[-200:]
            yield Check("ray", "fail", f"a task does not run: {reason}", "install this project on every node")
            return
        resources = ray.cluster_resources()
    what = "a local cluster starts" if cluster.started else f"cluster at {cluster.address}"
    yield Check("ray", "ok", f"{what}, {resources.get('CPU', 0):g} CPUs now; a task runs: {worker}")


def check_storage(uri: str) -> Iterator[Check]:
    """Write, read, list, write conditionally, read through Arrow and delete, with probe objects."""
    from infra.storage import FolderStorage, open_storage

    storage = open_storage(uri)
    with contextlib.ExitStack() as stack:
        if isinstance(storage, FolderStorage):  # also remove the folders that the probe makes
            made = [folder for folder in (storage.root, *storage.root.parents) if not folder.exists()]
            stack.callback(remove_empty, made)
        name = f"doctor-{uuid.uuid4().hex}"
        probe = storage.sub(name)
        stack.callback(remove_probe, probe)
        missing = list(try_storage(probe))
    if any(True for _ in probe.list()):
        missing.append("deleting")
    if missing:
        yield Check(
            "storage",
            "fail",
            f"{storage.uri} does not support {', '.join(missing)}",
            "use a storage with conditional writes (Amazon S3, MinIO, Ceph, R2, a local folder)",
        )
    else:
        yield Check("storage", "ok", f"{storage.uri}: writes, reads, conditional writes, Arrow, deletes")


def try_storage(storage: Storage) -> Iterator[str]:
    """Test an empty storage; yields a description of each operation that does not work."""
    storage.put("a", b"one")
    if storage.get("a") != b"one" or [info.key for info in storage.list()] != ["a"]:
        yield "reading back what was written"
    refused = not storage.put_if_absent("a", b"two") and storage.get("a") == b"one"
    if not refused or not storage.put_if_absent("b", b"x"):
        yield "If-None-Match (simultaneous publishers would overwrite each other)"
    before = storage.head("a")
    storage.put("a", b"three")
    after = storage.head("a")
    assert before is not None
    assert after is not None
    if storage.replace_if("a", b"four", before.etag) or not storage.replace_if("a", b"five", after.etag):
        yield "If-Match (compare and swap)"
    filesystem, base = storage.arrow()
    with filesystem.open_input_stream(f"{base}/a") as stream:
        if stream.read() != storage.get("a"):
            yield "reading through Arrow"


def remove_probe(storage: Storage) -> None:
    """Delete the probe's objects. Ignores errors of an unreachable storage, which were already reported."""
    from infra.storage import FolderStorage

    with contextlib.suppress(UserError):
        for info in list(storage.list()):
            storage.delete(info.key)
    if isinstance(storage, FolderStorage):
        shutil.rmtree(storage.root, ignore_errors=True)


def remove_empty(folders: list[Path]) -> None:
    """Remove those of these folders that are empty. They must come deepest first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
