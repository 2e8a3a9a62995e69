"""API keys: who may ask, for what, how much. Only hashes are kept.

A key file is plain text, one key a line, or YAML or JSON (by its ending) that says more of each:

    keys:
      - key: sha256:9f86d0...          # or the key itself
        name: alice
        scopes: [videos:read, videos:write, adapters, metrics]
        requests_per_minute: 60        # videos asked for
        concurrency: 4                 # videos that have not ended
        max_priority: 1
        webhook_secret: whsec_...
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from infra.errors import UserError
from infra.rows import NOT_YAML

API_KEY_VARIABLE = "MOTIONDIRECTOR_API_KEY"
WEBHOOK_SECRET_VARIABLE = "MOTIONDIRECTOR_WEBHOOK_SECRET"
MIN_KEY = 16  # characters
MAX_PRIORITY = 2

Scope = Literal["videos:read", "videos:write", "adapters", "metrics"]
# what a key may do when nothing is said: its own videos. Pins and metrics concern all tenants.
VIDEOS: tuple[Scope, ...] = ("videos:read", "videos:write")


def check_secret(secret: SecretStr) -> SecretStr:
    """`whsec_` and 24 to 64 bytes in base64, as Standard Webhooks has it."""
    text = secret.get_secret_value()
    try:
        size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not text.startswith("whsec_") or not 24 <= size <= 64:
        raise ValueError(
            "expected whsec_ and 24 to 64 random bytes in base64 (echo whsec_$(openssl rand -base64 32))"
        )
    return secret


WebhookSecret = Annotated[SecretStr, AfterValidator(check_secret)]


def read_webhook_secret() -> SecretStr | None:
    """The secret of the environment, which signs the webhooks of keys that have none. Raises UserError: not a secret."""
    text = os.environ.get(WEBHOOK_SECRET_VARIABLE, "").strip()
    if not text:
        return None
    try:
        return check_secret(SecretStr(text))
    except ValueError as error:
        raise UserError(f"{WEBHOOK_SECRET_VARIABLE}: {error}.", code="invalid_value") from None


class ApiKey(BaseModel):
    """One key: the SHA-256 of it in hex, and what it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, Field(max_length=100, description="for people")] = ""
    scopes: tuple[Scope, ...] = VIDEOS
    requests_per_minute: Annotated[float | None, Field(gt=0, description="videos asked for")] = None
    concurrency: Annotated[int | None, Field(ge=1, description="videos that have not ended")] = None
    max_priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    webhook_secret: WebhookSecret | None = None

    @property
    def tenant(self) -> str:
        """Whose the jobs are."""
        return self.sha256[:16]


def hash_key(key: str) -> str:
    """SHA-256 of an API key, in hex. Keys are long and random, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_key(presented: str, keys: Sequence[ApiKey]) -> ApiKey | None:
    """The presented key if it is one of `keys`, in a time that does not depend on which."""
    digest = hash_key(presented)
    found = None
    for known in keys:
        if hmac.compare_digest(digest, known.sha256):
            found = known
    return found


def read_api_keys(file: Path | None) -> list[ApiKey]:
    """The keys of a file and of the environment; of a key that is there twice, the first.

    Raises UserError: unreadable, or without a key, or a key under 16 characters, or a setting that is none.
    """
    keys = []
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--api-key-file {file} cannot be read ({error}); give a text file, one key a line."
            ) from None
        is_structured = file.suffix.lower() in (".yaml", ".yml", ".json")
        keys = structured_keys(text, file) if is_structured else plain_keys(text)
        if not keys:
            raise UserError(f"--api-key-file {file} holds no key; write one a line.")
    if os.environ.get(API_KEY_VARIABLE):
        keys.append(ApiKey(sha256=digest_of(os.environ[API_KEY_VARIABLE].strip())))
    first: dict[str, ApiKey] = {}
    for key in keys:
        first.setdefault(key.sha256, key)
    return list(first.values())


def plain_keys(text: str) -> list[ApiKey]:
    """One key a line; `#` begins a comment line."""
    lines = [line.strip() for line in text.splitlines()]
    return [ApiKey(sha256=digest_of(line)) for line in lines if line and not line.startswith("#")]


def structured_keys(text: str, file: Path) -> list[ApiKey]:
    """The `keys:` of a YAML or JSON file."""
    try:
        content: Any = yaml.safe_load(text)
    except NOT_YAML as error:
        reason = " ".join(str(getattr(error, "problem", None) or "it cannot be parsed").split())
        raise UserError(
            f"--api-key-file {file} is not YAML or JSON ({reason}); see docs/serving.md."
        ) from None
    if not isinstance(content, dict) or set(content) != {"keys"} or not isinstance(content["keys"], list):
        raise UserError(
            f"--api-key-file {file}: expected one list `keys:` of entries with `key:`; see docs/serving.md."
        )
    keys = []
    for number, entry in enumerate(content["keys"], 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            raise UserError(
                f"--api-key-file {file}: entry {number} has no `key:` in quotes; write it, or sha256:<hex>."
            )
        rest = {name: value for name, value in entry.items() if name != "key"}
        if "sha256" in rest:
            raise UserError(f"--api-key-file {file}: entry {number}: write `key: sha256:<hex>` for a hash.")
        try:
            keys.append(ApiKey(sha256=digest_of(entry["key"]), **rest))
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            where = ".".join(map(str, first["loc"])) if first else "its settings"
            reason = first["msg"].removeprefix("Value error, ") if first else "names must be text"
            raise UserError(f"--api-key-file {file}: entry {number}: {where}: {reason}.") from None
    return keys


def digest_of(line: str) -> str:
    """The hash of a key as a file names it: the key itself, or `sha256:<hex>`. UserError for a weak one."""
    if line.startswith("sha256:"):
        digest = line.removeprefix("sha256:").lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UserError(
                "an API key's `sha256:` line is not 64 hex digits; write the key's SHA-256 in hex."
            )
        return digest
    if len(line) < MIN_KEY:
        raise UserError(
            f"an API key has {len(line)} characters; use at least {MIN_KEY} random ones (openssl rand -hex 24)."
        )
    return hash_key(line)
