"""Checks what works on this machine: each check tries the real operation and names a remedy.

`diagnose()` yields one Check after another; `motiondirector doctor` prints them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.errors import UserError
from infra.paths import ROOT
from motiondirector.doctor.probes import Check, check_codecs, check_deepspeed, check_ray, check_storage

GB = 1 << 30


def diagnose(storage: str | None = None, address: str | None = None) -> Iterator[Check]:
    """Run every check, in order of dependency.

    Args:
        storage: URI of a storage to test with probe objects: write, read, write conditionally, delete.
        address: of the Ray cluster to try; None starts a local one briefly.
    """
    yield from attempt("python", check_python)
    yield from attempt("packages", check_packages)
    yield from attempt("datasets", check_foreign_datasets)
    yield from attempt("devices", check_devices)
    yield from attempt("compiler", check_compiler)
    yield from attempt("codecs", check_codecs)
    yield from attempt("disk", check_disk)
    yield from attempt("shared memory", check_shared_memory)
    yield from attempt("deepspeed", check_deepspeed)
    yield from attempt("ray", lambda: check_ray(address))
    if storage is not None:
        yield from attempt("storage", lambda: check_storage(storage))


def attempt(name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The findings of one check. An exception becomes a finding too."""
    try:
        yield from check()
    except UserError as error:
        sentence, _, remedy = error.message.partition("; ")
        yield Check(name, "fail", sentence, remedy)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield Check(name, "fail", reason, "install the project again: `make clean && make demo`")


def requirements() -> tuple[SpecifierSet, list[Requirement]]:
    """(Python's version range, the required packages) from pyproject.toml or the installed distribution."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        python, wanted = project["requires-python"], project["dependencies"]
    except FileNotFoundError:
        metadata = importlib.metadata.metadata("motiondirector-ray")
        python, wanted = metadata["Requires-Python"], metadata.get_all("Requires-Dist") or []
    parsed = [Requirement(line) for line in wanted]
    return SpecifierSet(python), [
        one for one in parsed if one.marker is None or "extra" not in str(one.marker)
    ]


def check_python() -> Iterator[Check]:
    wanted, _ = requirements()
    version = platform.python_version()
    if wanted.contains(version):
        yield Check("python", "ok", f"{version} ({sys.executable})")
    else:
        yield Check(
            "python", "fail", f"{version}, expected {wanted}", "create the .venv with Python 3.11 or 3.12"
        )


def check_packages() -> Iterator[Check]:
    """Compare each dependency's version with the tested range."""
    for wanted in requirements()[1]:
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(wanted.name, "fail", "not installed", f"pip install '{wanted}' -c constraints.txt")
            continue
        if wanted.specifier.contains(version, prereleases=True):
            yield Check(wanted.name, "ok", version)
        else:
            yield Check(
                wanted.name,
                "warn",
                f"{version}, tested with {wanted.specifier}",
                f"pip install '{wanted}' -c constraints.txt",
            )


def check_foreign_datasets() -> Iterator[Check]:
    """Check that Hugging Face's `datasets` is not installed: this project has a package of that name."""
    module = importlib.import_module("datasets")
    remedy = "pip uninstall datasets, or use the .venv that `make` creates"
    try:
        foreign = importlib.metadata.version("datasets")
    except importlib.metadata.PackageNotFoundError:
        foreign = ""
    if not getattr(module, "MOTIONDIRECTOR", False):
        yield Check("datasets", "fail", f"{module.__file__} is not this project's", remedy)
    elif foreign:
        yield Check(
            "datasets",
            "warn",
            f"Hugging Face's datasets {foreign} is installed beside this project's",
            remedy,
        )
    else:
        yield Check("datasets", "ok", "this project's; no other package of this name is installed")


def check_devices() -> Iterator[Check]:
    """Check the processor, memory and GPUs; tries a bfloat16 product on each device."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    yield Check(
        "cpu",
        "ok" if memory >= 7 else "warn",
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB of memory, "
        f"{multiply(torch.device('cpu'))}",
        "" if memory >= 7 else "the demo needs 8 GB: lower --workers and the batch size",
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            found = f"{card.name}, {card.total_memory / GB:.0f} GB, {multiply(torch.device('cuda', index))}"
            yield Check(f"cuda:{index}", "ok", found)
    elif Path("/dev/nvidia0").exists():
        yield Check(
            "gpu",
            "warn",
            f"a GPU is present, but torch {torch.__version__} cannot use it",
            f"install torch's CUDA wheel of the same version ({torch.__version__.partition('+')[0]}) and check nvidia-smi",
        )
    else:
        yield Check("gpu", "ok", "none; everything runs on the CPU")


def multiply(device) -> str:
    """Try a bfloat16 product on a device and describe the result."""
    import torch

    ones = torch.ones(8, 8, dtype=torch.bfloat16, device=device)
    try:
        right = bool(((ones @ ones) == 8).all())
    except RuntimeError as error:
        return f"no bf16 ({error})"
    return "bf16" if right else "bf16 gives wrong results"


def check_compiler() -> Iterator[Check]:
    """Compile and run a C program; torch.compile and DeepSpeed's kernels need a compiler."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    remedy = "apt-get install build-essential (or set CC)"
    if compiler is None:
        yield Check("compiler", "warn", "none: torch.compile is off", remedy)
        return
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.c"), Path(folder, "probe")
        source.write_text('#include <stdio.h>\nint main(void) { return puts("probe") < 0; }\n')
        try:
            command = [*compiler.split(), str(source), "-o", str(program)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            subprocess.run([str(program)], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            yield Check(
                "compiler", "warn", f"{compiler} does not work: {' '.join(str(reason).split())[:200]}", remedy
            )
            return
    yield Check("compiler", "ok", shutil.which(compiler.split()[0]) or compiler)


def check_disk() -> Iterator[Check]:
    """Check free disk space for runs, temporary files and Ray's session."""
    for name, folder in {"here": Path.cwd(), "temporary": Path(tempfile.gettempdir())}.items():
        usage = shutil.disk_usage(folder)
        free, share = usage.free / GB, usage.free / usage.total
        found = f"{free:.1f} GB free in {folder}"
        if free < 2:
            yield Check(
                f"disk ({name})", "fail", found, "free at least 2 GB, or set TMPDIR and RAY_TMPDIR elsewhere"
            )
        elif free < 10 or share < 0.05:
            yield Check(
                f"disk ({name})",
                "warn",
                f"{found} ({share:.0%})",
                "free some space: Ray stops spilling to a disk that is 95% full, and checkpoints need space",
            )
        else:
            yield Check(f"disk ({name})", "ok", found)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Check]:
    """Check /dev/shm, which holds Ray's objects and gloo's buffers; containers give it 64 MB by default."""
    remedy = "start the container with --shm-size=4g (Kubernetes: an emptyDir with medium Memory at /dev/shm)"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Check("shared memory", "warn", f"{folder} is missing or not writable", remedy)
        return
    size = shutil.disk_usage(folder).free / GB
    yield Check(
        "shared memory",
        "ok" if size >= 1 else "warn",
        f"{size:.1f} GB free in {folder}",
        "" if size >= 1 else remedy,
    )
