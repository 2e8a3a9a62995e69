"""The lowest layer: object storage, the concept registry, cluster files. Imports no other package here."""
