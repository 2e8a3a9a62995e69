"""How a server is set up: one model for the command line, for `serve deploy` files and for tests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import UserError

API_KEY_VARIABLE = "MOTIONDIRECTOR_API_KEY"


class ServeConfig(BaseModel):
    """Arguments of `serving.deployment:build_app`."""

    model_config = ConfigDict(extra="forbid")

    foundation: Annotated[str | None, Field(description="path or hub id; absent: the embedded model")] = None
    device: Annotated[str | None, Field(description="absent: a GPU where there is one")] = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    registry: Annotated[str | None, Field(description="folder or s3:// URI of the concept registry")] = None
    data_dir: Annotated[str, Field(description="jobs, results, adapter files")] = "runs/serve"
    database: Annotated[
        str | None, Field(description="SQLAlchemy URL of the jobs; absent: SQLite in data_dir")
    ] = None
    results: Annotated[str | None, Field(description="storage URI of the videos; absent: in data_dir")] = None
    results_ttl: Annotated[float, Field(gt=0, description="seconds a video is kept")] = 7 * 86_400.0
    slots: Annotated[int, Field(ge=1, le=4096, description="temporal adapters on the device at once")] = 8
    spatial_slots: Annotated[
        int, Field(ge=0, le=4096, description="spatial adapters on the device at once")
    ] = 4
    rank: Annotated[int, Field(ge=1, le=1024, description="largest rank of an adapter")] = 32
    slot_memory: Annotated[
        int | None,
        Field(
            ge=1, description="device bytes for adapters; slots, spatial_slots and rank follow unless given"
        ),
    ] = None
    host_memory: Annotated[int, Field(ge=1, description="bytes of packed adapters in host memory")] = 4 << 30
    disk_cache: Annotated[int, Field(ge=1, description="bytes of adapter files on local disk")] = 16 << 30
    batch_memory: Annotated[
        int | None, Field(ge=1, description="bytes of one forward's activations; absent: what is free")
    ] = None
    compile: Annotated[bool, Field(description="torch.compile the denoiser, all at start")] = False
    max_batch: Annotated[int, Field(ge=1, le=256, description="samples in one denoising step")] = 8
    max_pixels: Annotated[
        int | None, Field(ge=1, description="frames x height x width of the largest video")
    ] = None
    replicas: Annotated[int, Field(ge=1, description="engines, each with the model")] = 1
    engine_cpus: Annotated[float, Field(ge=0, description="CPUs that Ray sets aside for an engine")] = 1.0
    engine_gpus: Annotated[float, Field(ge=0, description="GPUs that Ray sets aside for an engine")] = 0.0
    threads: Annotated[
        int | None, Field(ge=1, description="torch threads of an engine; absent: every core")
    ] = None
    api_key_hashes: Annotated[list[str], Field(description="SHA-256 of each key; empty: loopback only")] = []

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{Path(self.data_dir).absolute() / 'jobs.sqlite'}"

    @property
    def results_uri(self) -> str:
        return self.results or str(Path(self.data_dir).absolute())


def make_config(**fields: Any) -> ServeConfig:
    """A configuration from a user's options. Raises UserError naming the option."""
    try:
        return ServeConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise UserError(f"{option} {first['input']!r}: {first['msg']}.", code="invalid_value") from None


def hash_key(key: str) -> str:
    """SHA-256 of an API key, in hex. Keys are long and random, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_api_keys(file: Path | None) -> list[str]:
    """Hashes of the keys in a file (one a line, `#` comments; or `sha256:<hex>`) and in the environment.

    Raises UserError: unreadable, or without a key, or a key under 16 characters.
    """
    lines = []
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--api-key-file {file} cannot be read ({error}); give a text file, one key a line."
            ) from None
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise UserError(f"--api-key-file {file} holds no key; write one a line.")
    if os.environ.get(API_KEY_VARIABLE):
        lines.append(os.environ[API_KEY_VARIABLE].strip())
    hashes = []
    for line in lines:
        if line.startswith("sha256:"):
            digest = line.removeprefix("sha256:").lower()
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise UserError(
                    "an API key's `sha256:` line is not 64 hex digits; write the key's SHA-256 in hex."
                )
            hashes.append(digest)
        elif len(line) < 16:
            raise UserError(
                f"an API key has {len(line)} characters; use at least 16 random ones (openssl rand -hex 24)."
            )
        else:
            hashes.append(hash_key(line))
    return list(dict.fromkeys(hashes))


def find_key(presented: str, hashes: list[str]) -> str | None:
    """The hash of the presented key if it is one of `hashes`, in a time that does not depend on which."""
    digest = hash_key(presented)
    found = None
    for known in hashes:
        if hmac.compare_digest(digest, known):
            found = known
    return found


def is_loopback(host: str) -> bool:
    """Whether an address (or `localhost`) can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_exposure(host: str, hashes: list[str]) -> None:
    """Raises UserError when a server without keys would listen beyond loopback."""
    if not hashes and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, and there is no API key; give --api-key-file FILE "
            f"or set {API_KEY_VARIABLE}, or listen on 127.0.0.1."
        )
