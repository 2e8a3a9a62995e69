"""The names of tenants' concepts: in the registry, where all concepts are, and as a tenant knows its own."""

from __future__ import annotations

from serving.tenants.namespaces import split_name


def model_of(version: str) -> str:
    """The `model` of its owner's requests that use a version, by its name in the registry (concept@number)."""
    concept, _, number = version.partition("@")
    return f"foundation:{split_name(concept)[1]}@{number}"
