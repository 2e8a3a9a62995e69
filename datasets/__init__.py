"""Clips become Parquet shards become batches of latents; and the rendered sprite world.

This package shares its name with Hugging Face's ``datasets``. ``MOTIONDIRECTOR`` marks ours, so that the
front door can tell which of the two was imported and say so.
"""

MOTIONDIRECTOR = True
