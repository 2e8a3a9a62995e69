"""Adapter files and the versions made of them."""
