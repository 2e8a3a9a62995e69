"""Wan: from text, from an image, two experts."""
