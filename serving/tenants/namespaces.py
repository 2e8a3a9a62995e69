"""How a tenant's concepts are named in the registry, and which names of the registry a tenant sees.

A tenant's own concept `orbit` is `t-<id>.orbit` in the registry, with the tenant's random id. Callers never see
that name: requests are resolved in a `Namespace`, and everything afterwards (jobs, videos, errors, lists) has the
name that the caller used. Every other name of the registry is shared with all tenants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.errors import InvalidInput
from infra.registry import check_concept_name

PRIVATE = re.compile(r"t-([0-9a-f]{16})\.(.+)")
MAX_NAME = 64 - len("t-.") - 16  # characters of a tenant's concept, so that its name in the registry is valid


def private_name(id: str, concept: str) -> str:
    """The name in the registry of a tenant's concept. `split_name` is the inverse.

    Args:
        id: the tenant's, of 16 hexadecimal digits.

    Raises InvalidInput for a name that a tenant's concept cannot have.
    """
    check_concept_name(concept)
    if len(concept) > MAX_NAME or PRIVATE.fullmatch(concept):
        raise InvalidInput(
            f"concept name {concept}: expected at most {MAX_NAME} characters that do not begin like an internal name; "
            "choose a shorter one, for example car-turn.",
            code="invalid_concept",
        )
    return f"t-{id}.{concept}"


def split_name(name: str) -> tuple[str | None, str]:
    """(tenant's id, the concept's name for it) of a name in the registry; (None, name) if it is nobody's own."""
    found = PRIVATE.fullmatch(name)
    return (found[1], found[2]) if found else (None, name)


@dataclass(frozen=True)
class Namespace:
    """What one tenant sees of the registry.

    Names are looked up among its own concepts, then among those of the registry that are nobody's own, then
    among those that other tenants share with it. Of two with one name, the one shared first counts.

    Args:
        id: the tenant's; None: it has no concepts of its own.
        shared: names in the registry of other tenants' concepts that it may use, shared first first.
    """

    id: str | None = None
    shared: tuple[str, ...] = ()
    _shared: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.shared:
            self._shared.setdefault(split_name(name)[1], []).append(name)

    def candidates(self, concept: str) -> Iterator[str]:
        """The names in the registry that a name may mean, in the order in which they are tried."""
        if PRIVATE.fullmatch(concept):
            return
        if self.id is not None and len(concept) <= MAX_NAME:
            yield private_name(self.id, concept)
        yield concept
        yield from self._shared.get(concept, ())

    def own(self, concept: str) -> str | None:
        """The name in the registry of a concept of its own; None if it can have none of this name."""
        if self.id is None or len(concept) > MAX_NAME or PRIVATE.fullmatch(concept):
            return None
        return private_name(self.id, concept)

    def seen(self, name: str) -> str | None:
        """The tenant's name for a concept of the registry; None if it does not see it."""
        id, concept = split_name(name)
        return concept if id is None or id == self.id or name in self._shared.get(concept, ()) else None
