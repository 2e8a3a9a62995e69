"""Latents and text of a batch's concepts, made here or ahead of the lanes."""
