"""The lowest layer: object storage, concept registry, cluster files. Imports no other project package."""
