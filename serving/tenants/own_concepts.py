"""What a tenant may do with concepts of its own: delete them, share them."""

from __future__ import annotations

from collections.abc import Sequence

from infra.errors import Conflict, NotFound
from infra.registry import parse_ref
from serving.adapters.concepts import Concepts
from serving.tenants.concepts import TenantConcepts
from serving.tenants.erasure import Erasures
from serving.tenants.tenants import EVERYONE, Tenants


class OwnConcepts:
    """Acts on concepts of one tenant at a time; blocks.

    A concept that is another's, everyone's or nobody's is refused with one and the same NotFound.
    """

    def __init__(self, concepts: Concepts | None, tenants: Tenants, erasures: Erasures) -> None:
        self._concepts, self._tenants, self._erasures = concepts, tenants, erasures

    def delete(self, tenant: str, ref: str, actor: str) -> None:
        """Delete `concept` (all versions) or `concept@version`. `actor`: who does it, for the audit log."""
        name, versions = self._find(tenant, ref)
        self._erasures.ask(name, versions, actor)

    def share(self, tenant: str, ref: str, tenants: Sequence[str], everyone: bool, actor: str) -> None:
        """Share a concept with these tenants and no others, or with all.

        Raises Conflict for a single version, and on a server without keys.
        """
        name, _ = self._find(tenant, ref)
        if not tenant:
            raise Conflict(
                "this server has no API keys, so its concepts belong to nobody in particular; start it with keys to share.",
                code="no_tenants",
            )
        if parse_ref(ref)[1] is not None:
            raise Conflict(
                "a concept is shared with all its versions; name it without `@version`.",
                code="version_not_shared",
            )
        self._tenants.share(name, {EVERYONE} if everyone else set(tenants) - {tenant}, actor)

    def _find(self, tenant: str, ref: str) -> tuple[str, list[int]]:
        """(name in the registry, versions) of a concept of the tenant's own."""
        concept, number = parse_ref(ref)
        if self._concepts is not None:
            if tenant:
                namespace = self._tenants.namespace(tenant)
                name = namespace.own(concept)
                versions = TenantConcepts(self._concepts, namespace).own(ref)
            else:
                name = concept
                kept = self._concepts.numbers(name, "versions") - self._concepts.numbers(name, "removed")
                versions = sorted(kept if number is None else kept & {number})
            if name is not None and versions:
                return name, versions
        raise not_yours(ref)


def not_yours(ref: str) -> NotFound:
    """The answer for a model that the caller does not own, whether or not it exists."""
    return NotFound(
        f"there is no concept {ref[:80]!a} of your own; GET /v1/models lists yours (`owned_by: you`).",
        code="model_not_found",
    )
