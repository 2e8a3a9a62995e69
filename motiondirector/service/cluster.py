"""The application for clusters (`serve deploy`, a RayService) that also accepts trainings: `serving.cluster` with a trainer.

    applications:
      - name: motiondirector
        import_path: motiondirector.service.cluster:build_app
        args: {registry: "s3://bucket/registry", results: "s3://bucket/results", train_lanes: 0}

Lanes run elsewhere: `python -m motiondirector.service.lane --registry s3://bucket/registry` on any machine that reaches the
registry and the results.
"""

from ray.serve import Application

from motiondirector.service.trainer import open_trainer
from serving.cluster import secrets_of_this_node
from serving.config import ServeConfig
from serving.ray import deployment


def build_app(config: ServeConfig) -> Application:
    """The application of a configuration; Serve calls it with the `args` of its configuration file."""
    return deployment.bind(config, secrets_of_this_node, open_trainer)
