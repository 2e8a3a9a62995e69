"""Concepts that ship with the project: what there is, how they get into a registry, and a page that shows them."""
