"""API keys of a file, with their scopes and quotas. Only hashes are kept. (`serving.tenants.api_keys`: of the database.)

A key file is plain text with one key per line, or YAML or JSON (by its suffix) with settings per key:

    keys:
      - key: sha256:9f86d0...          # or the key itself
        tenant: alice                  # owner of the jobs; default: this key only
        name: alice's laptop
        scopes: [videos:read, videos:write, concepts, adapters, metrics]
        requests_per_minute: 60        # requested videos
        concurrency: 4                 # unfinished videos
        max_priority: 1
        webhook_secret: whsec_...
      - keys: [sha256:60303a..., sha256:fd61a0...]
        tenant: bob
        role: owner                    # viewer, member, owner or admin; instead of scopes

A tenant's keys see the same jobs and share its quotas. To replace a key, add the new one, let its users
switch, then remove the old one. Without `tenant`, a key's jobs belong to its hash.
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
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from infra.errors import InvalidInput, UserError
from infra.rows import NOT_YAML

API_KEY_VARIABLE = "MOTIONDIRECTOR_API_KEY"
API_KEY_FILE_VARIABLE = "MOTIONDIRECTOR_API_KEY_FILE"  # on a cluster's nodes
WEBHOOK_SECRET_VARIABLE = "MOTIONDIRECTOR_WEBHOOK_SECRET"
MIN_KEY = 16  # characters
MAX_PRIORITY = 2
TENANT = "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$"
TENANT_SETTINGS = (
    "requests_per_minute",
    "concurrency",
    "webhook_secret",
)  # settings of a tenant, equal for all of its keys

Scope = Literal["videos:read", "videos:write", "concepts", "keys", "adapters", "metrics", "admin"]
Role = Literal["viewer", "member", "owner", "admin"]
# default scopes: the key's own videos and concepts. Pins and metrics affect all tenants.
DEFAULT_SCOPES: tuple[Scope, ...] = ("videos:read", "videos:write", "concepts")

# a viewer reads; a member also makes; an owner also has the tenant's concepts and keys; an admin has the platform
ROLES: dict[Role, tuple[Scope, ...]] = {
    "viewer": ("videos:read",),
    "member": ("videos:read", "videos:write"),
    "owner": ("videos:read", "videos:write", "concepts", "keys"),
    "admin": get_args(Scope),
}


def check_secret(secret: SecretStr) -> SecretStr:
    """Check a secret's Standard Webhooks format: `whsec_` and 24 to 64 bytes in base64."""
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
    """The environment's secret, for webhooks of keys without one. Raises UserError if it is invalid."""
    text = os.environ.get(WEBHOOK_SECRET_VARIABLE, "").strip()
    if not text:
        return None
    try:
        return check_secret(SecretStr(text))
    except ValueError as error:
        raise UserError(f"{WEBHOOK_SECRET_VARIABLE}: {error}.", code="invalid_value") from None


class ApiKey(BaseModel):
    """One key: its SHA-256 in hex, and what it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, Field(max_length=100, description="for people")] = ""
    # its value in the database
    tenant: Annotated[str, Field(pattern=TENANT, description="owner of the jobs; absent: this key alone")] = (
        Field(default_factory=lambda data: data["sha256"][:16])
    )
    role: Annotated[Role | None, Field(description="gives it scopes, unless they are given")] = None
    scopes: tuple[Scope, ...] = Field(
        default_factory=lambda data: ROLES[data["role"]] if data.get("role") else DEFAULT_SCOPES
    )
    requests_per_minute: Annotated[float | None, Field(gt=0, description="requested videos")] = None
    concurrency: Annotated[int | None, Field(ge=1, description="unfinished videos")] = None
    max_priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    webhook_secret: WebhookSecret | None = None

    @property
    def id(self) -> str:
        """Its name in lists and in the audit log."""
        return key_id(self.sha256)


def check_tenant_name(name: str) -> str:
    """The name, if a tenant may have it. Else InvalidInput."""
    if not re.fullmatch(TENANT, name):
        raise InvalidInput(
            f"tenant {name[:80]!a}: expected 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', starting with a letter or "
            "digit; for example alice."
        )
    return name


def key_id(sha256: str) -> str:
    """The id of a key, from its hash."""
    return f"key_{sha256[:16]}"


def check_tenants(keys: Sequence[ApiKey]) -> None:
    """Raise ValueError if keys of one tenant differ in a setting of the tenant."""
    first: dict[str, ApiKey] = {}
    for key in keys:
        known = first.setdefault(key.tenant, key)
        for setting in TENANT_SETTINGS:
            if getattr(known, setting) != getattr(key, setting):
                raise ValueError(
                    f"two keys of tenant {key.tenant} differ in {setting}, which applies to the whole tenant; write the "
                    "same for both"
                )


def hash_key(key: str) -> str:
    """SHA-256 of an API key, in hex. Keys are long and random, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_key(presented: str, keys: Sequence[ApiKey]) -> ApiKey | None:
    """The presented key if it is one of `keys`. The time taken does not depend on which."""
    digest = hash_key(presented)
    found = None
    for known in keys:
        if hmac.compare_digest(digest, known.sha256):
            found = known
    return found


def read_api_keys(file: Path | None) -> list[ApiKey]:
    """The keys of a file and of the environment. Of duplicates, the first counts.

    Raises UserError: unreadable file, no key, a key under 16 characters, or an invalid setting.
    """
    keys = []
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--api-key-file {file} cannot be read ({error}); give a text file with one key per line."
            ) from None
        is_structured = file.suffix.lower() in (".yaml", ".yml", ".json")
        keys = structured_keys(text, file) if is_structured else plain_keys(text)
        if not keys:
            raise UserError(f"--api-key-file {file} holds no key; write one per line.")
    if os.environ.get(API_KEY_VARIABLE):
        keys.append(ApiKey(sha256=digest_of(os.environ[API_KEY_VARIABLE].strip())))
    first: dict[str, ApiKey] = {}
    for key in keys:
        first.setdefault(key.sha256, key)
    try:
        check_tenants(list(first.values()))
    except ValueError as error:
        raise UserError(f"--api-key-file {file}: {error}.") from None
    return list(first.values())


def plain_keys(text: str) -> list[ApiKey]:
    """Parse one key per line; `#` starts a comment line."""
    lines = [line.strip() for line in text.splitlines()]
    return [ApiKey(sha256=digest_of(line)) for line in lines if line and not line.startswith("#")]


def structured_keys(text: str, file: Path) -> list[ApiKey]:
    """Parse the `keys:` of a YAML or JSON file."""
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
        where = f"--api-key-file {file}: entry {number}"
        given = secrets_of(entry, where)
        rest = {name: value for name, value in entry.items() if name not in ("key", "keys")}
        if "sha256" in rest:
            raise UserError(f"{where}: write `key: sha256:<hex>` for a hash.")
        if len(given) > 1 and "tenant" not in rest:
            raise UserError(f"{where}: several keys share one tenant; name it with `tenant:`.")
        try:
            keys += [ApiKey(sha256=digest_of(key), **rest) for key in given]
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            setting = ".".join(map(str, first["loc"])) if first else "its settings"
            reason = first["msg"].removeprefix("Value error, ") if first else "names must be text"
            raise UserError(f"{where}: {setting}: {reason}.") from None
    return keys


def secrets_of(entry: Any, where: str) -> list[str]:
    """The keys of an entry: `key:`, or a list `keys:`. Raises UserError if there is neither."""
    if isinstance(entry, dict) and ("key" in entry) != ("keys" in entry):
        given = entry["keys"] if "keys" in entry else [entry["key"]]
        if isinstance(given, list) and given and all(isinstance(key, str) for key in given):
            return given
    raise UserError(
        f"{where} has no `key:` with a text; write the key in quotes or as sha256:<hex>, or a list of them as `keys:`."
    )


def digest_of(line: str) -> str:
    """The hash of a key in a file: the key itself, or `sha256:<hex>`. Raises UserError for a short key."""
    if line.startswith("sha256:"):
        digest = line.removeprefix("sha256:").lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UserError(
                "an API key's `sha256:` line does not have 64 hex digits; write the key's SHA-256 in hex."
            )
        return digest
    if len(line) < MIN_KEY:
        raise UserError(
            f"an API key has {len(line)} characters; use at least {MIN_KEY} random ones (openssl rand -hex 24)."
        )
    return hash_key(line)
