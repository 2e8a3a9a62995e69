"""The server's configuration: one model for the command line, `serve deploy` files and tests."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from infra.errors import UserError
from infra.setting import configured, setting
from models.dtypes import Dtype
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


MODEL = "Model"
ADAPTERS = "Adapters"
BATCHES = "Batches"
ENGINES = "Engines"
JOBS = "Jobs and videos"
CALLERS = "Callers"
TRAININGS = "Files and trainings"


def read_ttl(value: Any) -> Any:
    """None for `forever`, because a command line cannot express None."""
    return None if value == "forever" else value


class ServeConfig(BaseModel):
    """Arguments of `serving.ray.deployment:build_app`. Fields made by `setting` are `motiondirector serve` options."""

    model_config = ConfigDict(extra="forbid")

    # ------------------------------------------------------------------- model
    foundation: str | None = setting(None, MODEL, "Model folder or hub id. Absent: the embedded model.")
    registry: Annotated[str | None, Field(description="folder or s3:// URI of the concept registry")] = None
    device: str | None = setting(None, MODEL, "cpu, cuda, cuda:1 ... Absent: a GPU if there is one.")
    dtype: Dtype | None = setting(
        None,
        MODEL,
        "Precision of the model. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16|fp16",
    )
    quantize: Literal["none", "int8"] = setting(
        "none",
        MODEL,
        "int8: the weights of the model's blocks have one byte per value, half of bf16. Adapters stay in --dtype. Not with "
        "--compile.",
    )
    offload: Literal["none", "encoders"] = setting(
        "none",
        MODEL,
        "encoders: the text encoder and the VAE wait in host memory, and come to the GPU while they work.",
    )
    compile: bool = setting(
        False, MODEL, "Compile the model with torch.compile at start, for the video sizes of --warm-size."
    )
    warm_sizes: list[VideoSize] = setting(
        [],
        MODEL,
        "Video size (FRAMESxHEIGHTxWIDTH) to measure and compile for at start; repeatable. Absent: the foundation's "
        "default size.",
        option="--warm-size",
    )
    threads: int | None = setting(None, MODEL, "Torch threads of each engine. Absent: all cores.", ge=1)

    # ---------------------------------------------------------------- adapters
    adapter_layers: Literal["own", "all"] = setting(
        "own",
        ADAPTERS,
        "all: also room for the layers that only adapters of other tools change (`concepts import`), such as attention to the "
        "text. Slots are larger, and adapters have no regions.",
    )
    slots: int = setting(
        8, ADAPTERS, "Motions (temporal adapters) that are on the device at once.", ge=1, le=4096
    )
    spatial_slots: int = setting(
        4, ADAPTERS, "Appearances (spatial adapters) that are on the device at once.", ge=0, le=4096
    )
    rank: int = setting(32, ADAPTERS, "Largest rank of an adapter.", ge=1, le=1024)
    slot_memory: int | None = setting(
        None,
        ADAPTERS,
        "Bytes of device memory for adapters. Determines the slots and the rank, unless they are given.",
        ge=1,
    )
    host_memory: int = setting(
        4 << 30, ADAPTERS, "Bytes of host memory for packed adapters, in each engine.", ge=1
    )
    disk_cache: int = setting(
        16 << 30, ADAPTERS, "Bytes of adapter files in --data-dir, for all engines that share it.", ge=1
    )

    # ----------------------------------------------------------------- batches
    max_batch: int = setting(8, BATCHES, "Maximum number of videos in one denoising step.", ge=1, le=256)
    batch_memory: int | None = setting(
        None, BATCHES, "Bytes for the activations of one denoising step. Absent: the free memory.", ge=1
    )
    max_pixels: int | None = setting(
        None,
        BATCHES,
        "Frames x height x width of the largest video. Absent: four times the foundation's default size.",
        ge=1,
    )

    # ----------------------------------------------------------------- engines
    replicas: int = setting(
        1, ENGINES, "Number of engines, each with the model. With --max-replicas: the minimum.", ge=1
    )
    max_replicas: int | None = setting(
        None,
        ENGINES,
        "Maximum number of engines; their number then follows the work. Absent: --replicas.",
        ge=1,
    )
    target_seconds: float = setting(
        60.0,
        ENGINES,
        "With --max-replicas: seconds in which all queued and running work should be done.",
        gt=0,
    )
    engine_cpus: float = setting(1.0, ENGINES, "CPUs that Ray reserves for each engine.", ge=0)
    engine_gpus: float = setting(
        0.0, ENGINES, "GPUs that Ray reserves for each engine.", ge=0, option="--gpus"
    )

    # ---------------------------------------------------------- jobs and videos
    data_dir: str = setting("runs/serve", JOBS, "Folder for jobs, videos and downloaded adapters.")
    database: str | None = setting(
        None,
        JOBS,
        "SQLAlchemy URL of the job database. The process list shows a password in it: use --database-file instead. "
        "Absent: SQLite in --data-dir.",
    )
    database_file: str | None = setting(
        None, JOBS, "File with the URL of the job database, including its password."
    )
    results: str | None = setting(None, JOBS, "Folder or s3:// URI for the videos. Absent: in --data-dir.")
    results_ttl: float = setting(
        7 * 86_400.0, JOBS, "Seconds for which a video is kept; the default is one week.", gt=0
    )
    job_ttl: Annotated[float | None, BeforeValidator(read_ttl)] = setting(
        30 * 86_400.0,
        JOBS,
        "Seconds for which an ended job is kept with its prompt; its video is removed with it at the latest. The "
        "default is 30 days. forever: until its owner removes it.",
        gt=0,
        metavar="SECONDS|forever",
    )

    # ----------------------------------------------------------------- callers
    max_queue: int = setting(
        1000, CALLERS, "Maximum number of queued jobs; further requests are refused at once.", ge=1
    )
    max_streams: int = setting(
        128,
        CALLERS,
        "Maximum number of open event streams. Each of several tenants is limited to a share, at least a quarter.",
        ge=1,
    )
    max_bodies: int = setting(
        64, CALLERS, "Maximum number of requests of one tenant whose bodies are still arriving.", ge=1
    )
    webhook_networks: list[Network] = setting(
        [],
        CALLERS,
        "Non-public network that webhooks may call, such as 10.1.0.0/16; repeatable.",
        option="--webhook-network",
    )
    studio: bool = setting(
        True,
        CALLERS,
        "Serve the web studio at /studio. People sign in there with an API key, if there are keys.",
    )

    # ----------------------------------------------------- files and trainings
    train_lanes: int | None = setting(
        None,
        TRAININGS,
        "Accept files and trainings, and start this many lanes that train them on this machine, at a lower priority. 0: lanes "
        "run elsewhere (python -m motiondirector.service.lane). Absent: this server trains nothing.",
        ge=0,
        le=64,
    )
    max_train_steps: int = setting(10_000, TRAININGS, "Most steps of a training.", ge=1)
    max_trainings: int = setting(100, TRAININGS, "Most unfinished trainings of a tenant.", ge=1)
    reference_steps: int | None = setting(
        None,
        TRAININGS,
        "Steps of the trainings that learn an image (`input_reference`) or a character. Absent: as the foundation recommends.",
        ge=1,
    )
    max_file_bytes: int = setting(2 << 30, TRAININGS, "Bytes of the largest file.", ge=1)
    files_bytes: int = setting(20 << 30, TRAININGS, "Bytes of all files of a tenant.", ge=1)
    files_count: int = setting(1000, TRAININGS, "Files of a tenant.", ge=1)

    # ------------------ keys and secrets: from --api-key-file or the environment, never from the command line
    api_keys: Annotated[list[ApiKey], Field(description="keys of the callers; empty: loopback only")] = []
    api_key_hashes: Annotated[list[str], Field(description="SHA-256 of further keys without settings")] = []
    webhook_secret: Annotated[
        WebhookSecret | None, Field(description="signs the webhooks of keys without a secret of their own")
    ] = None
    session_secret: Annotated[
        SecretStr | None,
        Field(description="signs the studio's session cookies; absent: a random one for each process"),
    ] = None

    @model_validator(mode="after")
    def _replicas_are_a_range(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than replicas ({self.replicas})")
        return self

    @model_validator(mode="after")
    def _tenants_are_consistent(self) -> Self:
        check_tenants(self.keys)
        return self

    @model_validator(mode="after")
    def _one_database(self) -> Self:
        if self.database is not None and self.database_file is not None:
            raise ValueError("database and database_file are both given; give only one")
        return self

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `load_foundation`."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "offload": self.offload,
        }

    @property
    def autoscales(self) -> bool:
        """Whether the number of engines adapts to the work."""
        return self.max_replicas is not None and self.max_replicas > self.replicas

    @property
    def most_replicas(self) -> int:
        """Maximum number of engines."""
        return max(self.replicas, self.max_replicas or 0)

    @property
    def keys(self) -> list[ApiKey]:
        """All keys, with and without settings."""
        return [*self.api_keys, *(ApiKey(sha256=digest) for digest in self.api_key_hashes)]

    @property
    def database_url(self) -> str:
        """The URL of the job database. Raises UserError if its file cannot be read."""
        if self.database_file is not None:
            return read_database_file(Path(self.database_file))
        return self.database or f"sqlite:///{Path(self.data_dir).absolute() / 'jobs.sqlite'}"

    @property
    def results_uri(self) -> str:
        return self.results or str(Path(self.data_dir).absolute())


def read_database_file(file: Path) -> str:
    """Read a database URL from a file. Raises UserError without showing the URL."""
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
    return configured(ServeConfig, fields)


def is_loopback(host: str) -> bool:
    """Whether an address (or `localhost`) is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_exposure(host: str, needs_key: bool) -> None:
    """Raise UserError if a server without keys would listen beyond loopback."""
    if not needs_key and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, but there is no API key; give --api-key-file FILE, "
            f"set {API_KEY_VARIABLE}, create one (motiondirector keys create), or listen on 127.0.0.1."
        )
