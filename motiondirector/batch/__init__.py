"""Batches: options, training of a manifest on lanes here or on Ray, progress displays, validation of versions."""
