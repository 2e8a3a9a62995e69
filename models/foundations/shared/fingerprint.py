"""A foundation's fingerprint: one hash over the weights and configurations of its components.

Adapters and cached latents carry it, because they fit only the model they were made with.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WEIGHTS = (".safetensors",)
CONFIGS = (".json", ".txt", ".model")
# Keys that describe the checkpoint's origin and are not part of the model.
IGNORED_KEYS = ("_diffusers_version", "_name_or_path", "transformers_version")


def fingerprint_folder(folder: Path) -> str:
    """sha256 over the sorted (relative path, content hash) of every component file below a pipeline folder."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix in (*WEIGHTS, *CONFIGS)
        and ".cache" not in path.relative_to(folder).parts
    )
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(_hash, files))
    assert files, f"no component files below {folder}"
    total = hashlib.sha256()
    for path, digest in zip(files, hashes, strict=True):
        total.update(f"{path.relative_to(folder).as_posix()}={digest}\n".encode())
    return total.hexdigest()


def _hash(path: Path) -> str:
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text())
        except ValueError:
            content = None
        if isinstance(content, dict):
            kept = {key: value for key, value in content.items() if key not in IGNORED_KEYS}
            return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
