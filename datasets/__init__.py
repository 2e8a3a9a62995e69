"""Turns clips into Parquet shards and cached latents; also holds the rendered sprite world.

This package shares its name with Hugging Face's ``datasets``. The front door checks ``MOTIONDIRECTOR``
to tell which of the two was imported, and reports the wrong one.
"""

MOTIONDIRECTOR = True
