"""Batches: their options, how a manifest is trained on lanes here or on Ray, what is shown of it, how versions are validated."""
