"""A training run, from clips to a published version."""
