"""The application for clusters with the studio: `import_path: motiondirector.studio.cluster:build_app`.

As `serving.cluster:build_app`, which serves the API alone. MOTIONDIRECTOR_SESSION_SECRET (at least 32 characters) on
the nodes signs the sessions. Without it, sessions end when the ingress restarts, and its proxies count the studio's
requests among those without a key.
"""

from ray.serve import Application

from motiondirector.studio.app import add_studio
from serving.cluster import secrets_of_this_node
from serving.config import ServeConfig
from serving.ray import deployment


def build_app(config: ServeConfig) -> Application:
    """The application of a configuration; Serve calls it with the `args` of its configuration file."""
    return deployment.bind(config, secrets_of_this_node, add_studio if config.studio else None)
