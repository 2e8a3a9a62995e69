"""The application for clusters (`serve deploy`, a RayService): `serving.ray.deployment` plus secrets of the node.

Ray Serve listens on every address there, so a server without API keys is refused. The keys are in a file,
usually a mounted secret: one key or `sha256:<hex>` per line, or YAML with quotas and scopes.
MOTIONDIRECTOR_API_KEY_FILE names it on the ingress's node. MOTIONDIRECTOR_WEBHOOK_SECRET, if set, signs
webhooks. Only the ingress reads these: Serve builds the application on any node, and engines run on nodes
without secrets. With RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH set to serving.ray.gate:middlewares, the
proxies of nodes with that file refuse requests without one of its keys.
"""

import os
from pathlib import Path

from ray.serve import Application

from infra.errors import UserError
from serving.config import ServeConfig
from serving.keys import (
    API_KEY_FILE_VARIABLE,
    API_KEY_VARIABLE,
    check_tenants,
    read_api_keys,
    read_webhook_secret,
)
from serving.ray import deployment
from serving.sessions import read_session_secret
from serving.tenants.api_keys import has_keys


def with_keys(config: ServeConfig) -> ServeConfig:
    """The configuration with the keys of this node. Raises UserError if there are none."""
    file = os.environ.get(API_KEY_FILE_VARIABLE)
    keys = {key.sha256: key for key in [*config.keys, *read_api_keys(Path(file) if file else None)]}
    if not keys and not has_keys(config.database_url):
        raise UserError(
            f"a server on a cluster can be reached from other machines, but there is no API key; set "
            f"{API_KEY_FILE_VARIABLE} to a file of keys, {API_KEY_VARIABLE} to a key, or api_keys, or create one "
            "in its database (motiondirector keys create).",
            code="no_api_key",
        )
    try:
        check_tenants(list(keys.values()))
    except ValueError as error:
        raise UserError(f"{error}.", code="invalid_value") from None
    return config.model_copy(update={"api_keys": list(keys.values()), "api_key_hashes": []})


def with_webhook_secret(config: ServeConfig) -> ServeConfig:
    """The configuration; if it has no secret, with the environment's. Raises UserError if that is invalid."""
    return config.model_copy(update={"webhook_secret": config.webhook_secret or read_webhook_secret()})


def with_session_secret(config: ServeConfig) -> ServeConfig:
    """The configuration; if it has no session secret, with the environment's. Raises UserError if that is too short."""
    return config.model_copy(update={"session_secret": config.session_secret or read_session_secret()})


def build_app(config: ServeConfig) -> Application:
    """The application of a configuration; Serve calls it with the `args` of its configuration file."""
    return deployment.bind(config, secrets_of_this_node)


def secrets_of_this_node(config: ServeConfig) -> ServeConfig:
    """The configuration with the secrets of the ingress's node. Raises UserError without a key."""
    return with_session_secret(with_webhook_secret(with_keys(config)))
