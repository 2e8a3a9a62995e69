"""The part of `kubectl kustomize` that our manifests use, for tests; other features raise an error.

The output was compared object by object with kubectl 1.35's (Kustomize 5.7.1); docs/cluster.md says how
to repeat that.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images"}


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization."""
    return _apply(folder, [])


def _apply(folder: Path, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Apply a kustomization's resources and changes; a component changes `objects`."""
    text = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(text) - KNOWN
    if unknown:
        raise ValueError(f"{folder}: {unknown} is not among what these tests understand: {KNOWN}")
    for resource in text.get("resources", []):
        path = folder / resource
        objects += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for component in text.get("components", []):
        objects = _apply(folder / component, objects)
    for patch in text.get("patches", []):
        if set(patch) != {"target", "patch"} or set(patch["target"]) != {"kind"}:
            raise ValueError(f"{folder}: only JSON patches of a kind are understood, not {patch}")
        operations = jsonpatch.JsonPatch(yaml.safe_load(patch["patch"]))
        kind = patch["target"]["kind"]
        objects = [operations.apply(thing) if thing["kind"] == kind else thing for thing in objects]
    if "namespace" in text:
        for thing in objects:
            thing["metadata"]["namespace"] = text["namespace"]
    objects = deepcopy(objects)  # YAML's anchors and aliases are one object until here
    for image in text.get("images", []):
        for container in containers(objects):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}@{image['digest']}"
    return objects


def containers(thing: Any) -> list[dict[str, Any]]:
    """All containers in an object, at any depth."""
    if isinstance(thing, list):
        return [found for part in thing for found in containers(part)]
    if not isinstance(thing, dict):
        return []
    own = thing.get("containers", []) + thing.get("initContainers", [])
    return own + [
        found for key, part in thing.items() if "ontainers" not in key for found in containers(part)
    ]
