"""The application for clusters (`serve deploy`, a RayService) with trainings and the studio; `serving.cluster` has the API alone.

    applications:
      - name: motiondirector
        import_path: motiondirector.service.cluster:build_app
        args: {registry: "s3://bucket/registry", results: "s3://bucket/results", train_lanes: 0}

With `train_lanes` it accepts trainings. Lanes run elsewhere: `python -m motiondirector.service.lane --registry s3://bucket/registry` on
any machine that reaches the registry and the results. `studio: false` leaves the studio out.

MOTIONDIRECTOR_SESSION_SECRET (at least 32 characters) on the nodes signs the studio's sessions. Without it, sessions end when
the ingress restarts, and its proxies count the studio's requests among those without a key.
"""

from ray.serve import Application

from motiondirector.service.trainer import open_trainer
from motiondirector.studio.app import add_studio
from serving.cluster import secrets_of_this_node
from serving.config import ServeConfig
from serving.ray import deployment


def build_app(config: ServeConfig) -> Application:
    """The application of a configuration; Serve calls it with the `args` of its configuration file."""
    extend = add_studio if config.studio else None
    return deployment.bind(config, secrets_of_this_node, trainer=open_trainer, extend=extend)
