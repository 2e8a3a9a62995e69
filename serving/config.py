"""How a server is set up: one model for the command line, for `serve deploy` files and for tests."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import UserError
from serving.keys import API_KEY_VARIABLE, ApiKey, WebhookSecret, check_tenants


def check_network(text: str) -> str:
    """A network such as 10.1.0.0/16."""
    ipaddress.ip_network(text)
    return text


def check_video_size(text: str) -> str:
    """Frames, height and width such as 16x256x256."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){2}", text):
        raise ValueError("expected FRAMESxHEIGHTxWIDTH, like 16x256x256")
    return text


Network = Annotated[str, AfterValidator(check_network)]
VideoSize = Annotated[str, AfterValidator(check_video_size)]


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
    database_file: Annotated[
        str | None, Field(description="file that holds the database's URL, in place of `database`")
    ] = None
    results: Annotated[str | None, Field(description="storage URI of the videos; absent: in data_dir")] = None
    results_ttl: Annotated[float, Field(gt=0, description="seconds a video is kept")] = 7 * 86_400.0
    job_ttl: Annotated[
        float | None,
        Field(gt=0, description="seconds after its end that a job is kept with its prompt; null: for ever"),
    ] = 30 * 86_400.0
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
    disk_cache: Annotated[
        int, Field(ge=1, description="bytes of adapter files in data_dir, of all engines that share it")
    ] = 16 << 30
    batch_memory: Annotated[
        int | None, Field(ge=1, description="bytes of one forward's activations; absent: what is free")
    ] = None
    compile: Annotated[bool, Field(description="torch.compile the denoiser for warm_sizes, at start")] = False
    warm_sizes: Annotated[
        list[VideoSize],
        Field(
            description="FRAMESxHEIGHTxWIDTH of videos to measure and compile for; empty: the foundation's alone"
        ),
    ] = []
    max_batch: Annotated[int, Field(ge=1, le=256, description="samples in one denoising step")] = 8
    max_pixels: Annotated[
        int | None, Field(ge=1, description="frames x height x width of the largest video")
    ] = None
    replicas: Annotated[int, Field(ge=1, description="engines, each with the model; the least with more")] = 1
    max_replicas: Annotated[
        int | None, Field(ge=1, description="engines at most, as many as the work wants; absent: replicas")
    ] = None
    target_seconds: Annotated[
        float,
        Field(gt=0, description="with max_replicas: seconds in which all that waits and runs is to be done"),
    ] = 60.0
    engine_cpus: Annotated[float, Field(ge=0, description="CPUs that Ray sets aside for an engine")] = 1.0
    engine_gpus: Annotated[float, Field(ge=0, description="GPUs that Ray sets aside for an engine")] = 0.0
    threads: Annotated[
        int | None, Field(ge=1, description="torch threads of an engine; absent: every core")
    ] = None
    max_queue: Annotated[int, Field(ge=1, description="queued jobs; beyond, 429 at once")] = 1000
    max_streams: Annotated[
        int, Field(ge=1, description="event streams open at once; a quarter of them, of one key among many")
    ] = 128
    max_bodies: Annotated[
        int, Field(ge=1, description="requests of one tenant whose bodies are on their way at once")
    ] = 64
    api_keys: Annotated[list[ApiKey], Field(description="who may ask; empty: loopback only")] = []
    api_key_hashes: Annotated[list[str], Field(description="SHA-256 of further keys without settings")] = []
    webhook_secret: Annotated[
        WebhookSecret | None, Field(description="signs the webhooks of keys without a secret of their own")
    ] = None
    webhook_networks: Annotated[
        list[Network], Field(description="networks that webhooks may go to though they are not public")
    ] = []

    @model_validator(mode="after")
    def _replicas_are_a_range(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than replicas ({self.replicas})")
        return self

    @model_validator(mode="after")
    def _tenants_are_one_each(self) -> Self:
        check_tenants(self.keys)
        return self

    @model_validator(mode="after")
    def _one_database(self) -> Self:
        if self.database is not None and self.database_file is not None:
            raise ValueError("database and database_file are both given; give one")
        return self

    @property
    def scales(self) -> bool:
        """Whether the number of engines follows the work."""
        return self.max_replicas is not None and self.max_replicas > self.replicas

    @property
    def most_replicas(self) -> int:
        """Engines there may be at once."""
        return max(self.replicas, self.max_replicas or 0)

    @property
    def keys(self) -> list[ApiKey]:
        """Every key, however it was configured."""
        return [*self.api_keys, *(ApiKey(sha256=digest) for digest in self.api_key_hashes)]

    @property
    def database_url(self) -> str:
        """Raises UserError when its file cannot be read."""
        if self.database_file is not None:
            return read_database_file(Path(self.database_file))
        return self.database or f"sqlite:///{Path(self.data_dir).absolute() / 'jobs.sqlite'}"

    @property
    def results_uri(self) -> str:
        return self.results or str(Path(self.data_dir).absolute())


def read_database_file(file: Path) -> str:
    """The one line of a file: a database's URL. Raises UserError, which does not repeat it."""
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"--database-file {file} cannot be read ({reason}); give a file with a SQLAlchemy URL.",
            code="invalid_value",
        ) from None
    if len(lines) != 1:
        raise UserError(
            f"--database-file {file} holds {len(lines)} words; write one SQLAlchemy URL, such as "
            "postgresql+psycopg://user:password@host/name.",
            code="invalid_value",
        )
    return lines[0]


def make_config(**fields: Any) -> ServeConfig:
    """A configuration from a user's options. Raises UserError naming the option."""
    try:
        return ServeConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # it is about several options together
            raise UserError(f"{first['msg'].removeprefix('Value error, ')}.", code="invalid_value") from None
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        given = "" if "secret" in option else f" {first['input']!r}"
        raise UserError(f"{option}{given}: {first['msg']}.", code="invalid_value") from None


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


def check_exposure(host: str, keys: Sequence[ApiKey]) -> None:
    """Raises UserError when a server without keys would listen beyond loopback."""
    if not keys and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, and there is no API key; give --api-key-file FILE "
            f"or set {API_KEY_VARIABLE}, or listen on 127.0.0.1."
        )
