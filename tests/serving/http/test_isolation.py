"""What a tenant is answered does not depend on whether another tenant is there.

Random calls of two tenants on one server; then the calls of one of them alone on a new server: it must get the
same answers, up to random ids and times.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.registry import ADAPTER_FILE, open_registry
from serving.adapters import model_list
from serving.adapters.concepts import Concepts
from serving.http.service import VideoService
from serving.jobs import queue_positions
from serving.keys import ApiKey, hash_key
from serving.tenants import api_keys

TENANTS = ("alice", "bob")
KEYS = {name: f"the-key-of-{name}-0123456789" for name in TENANTS}
NAMES = ("orbit", "walk", "wark", "walk@2")  # the first is everyone's
MOMENTS = {"created_at", "created", "expires_at", "completed_at", "revoked_at"}
RANDOM = re.compile(r"video_[0-9a-f]{32}|key_[0-9a-f]{16}|md_[0-9a-f]{48}")

Call = tuple[str, str, str, int]  # tenant, what, a concept, which of its videos
calls = st.lists(
    st.tuples(
        st.sampled_from(TENANTS),
        st.sampled_from(
            [
                "publish", "create", "mix", "remix", "show", "peek", "cancel", "delete", "list",
                "models", "model", "delete model", "share", "pin", "unpin", "residents", "keys", "usage",
            ]
        ),
        st.sampled_from(NAMES),
        st.integers(0, 2),
    ),
    max_size=14,
)  # fmt: skip


class World:
    """A server, what each tenant made there, and what it was answered."""

    def __init__(self, folder: Path, api: TestClient) -> None:
        self.api, self.registry, self.folder = api, open_registry(folder / "registry"), folder
        self.videos: dict[str, list[str]] = {name: [] for name in TENANTS}
        self.seen: dict[str, list[str]] = {name: [] for name in TENANTS}
        self.publish("", "orbit")

    def publish(self, tenant: str, concept: str) -> str:
        concept = concept.partition("@")[0]
        name = self.api.service.tenants.registry_name(tenant, concept)  # type: ignore[attr-defined]
        (self.folder / "files").mkdir(exist_ok=True)
        number = len(self.registry.numbers(name, "versions"))
        (self.folder / "files" / ADAPTER_FILE).write_text(f"{tenant} {concept} {number}")
        metadata = {"foundation_fingerprint": INFO.fingerprint}
        return self.registry.publish(name, self.folder / "files", metadata=metadata).ref.split(".")[-1]

    def play(self, played: Sequence[Call]) -> None:
        for call in played:
            self.seen[call[0]].append(self.answer(*call))

    def answer(self, tenant: str, what: str, name: str, which: int) -> str:
        """Make a call; its answer as text, with the random parts numbered as this tenant met them."""
        if what == "publish":
            return self.publish(tenant, name)
        mine = self.videos[tenant]
        video = mine[which % len(mine)] if mine else "video_" + "0" * 32
        others = [id for other in TENANTS if other != tenant for id in self.videos[other]]
        absent = others[which % len(others)] if what == "peek" and others else "video_" + "0" * 32
        body = {"prompt": "x", "seed": which}
        method, path, sent = {
            "create": ("POST", "/v1/videos", {**body, "model": f"foundation:{name}"}),
            "mix": ("POST", "/v1/videos", {**body, "lora": [{"name": name}, {"name": "orbit"}]}),
            "remix": ("POST", f"/v1/videos/{video}/remix", {"prompt": "y"}),
            "show": ("GET", f"/v1/videos/{video}", None),
            "peek": (
                [("GET", ""), ("POST", "/cancel"), ("DELETE", "")][which][0],
                f"/v1/videos/{absent}" + ["", "/cancel", ""][which],
                None,
            ),
            "cancel": ("POST", f"/v1/videos/{video}/cancel", None),
            "delete": ("DELETE", f"/v1/videos/{video}", None),
            "list": ("GET", "/v1/videos?limit=3", None),
            "models": ("GET", "/v1/models", None),
            "model": ("GET", f"/v1/models/foundation:{name}", None),
            "delete model": ("DELETE", f"/v1/models/foundation:{name}", None),
            "share": ("POST", f"/v1/models/foundation:{name}/share", {"tenants": ["nobody"]}),
            "pin": ("POST", "/v1/adapters/prefetch", {"name": name}),
            "unpin": ("POST", "/v1/adapters/unpin", {"name": name}),
            "residents": ("GET", "/v1/adapters", None),
            "keys": ("GET", "/v1/keys", None) if which else ("POST", "/v1/keys", {"role": "viewer"}),
            "usage": ("GET", "/v1/usage", None),
        }[what]
        headers = {"Authorization": f"Bearer {KEYS[tenant]}"}
        answer = self.api.request(method, path, json=sent, headers=headers)
        assert answer.status_code < 500, answer.text
        told = answer.json()
        is_new = str(told.get("id", "")).startswith("video_") and "deleted" not in told
        if is_new and told["id"] not in mine:
            mine.append(told["id"])
        text = json.dumps([answer.status_code, without_times(told)])
        assert not any(other in text for other in TENANTS if other != tenant), text
        return text.replace(absent, "absent")


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key in MOMENTS else without_times(inner) for key, inner in value.items()}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def numbered(answers: list[str]) -> list[str]:
    """The answers with random ids replaced by the order of their appearance."""
    known: dict[str, str] = {}
    return [RANDOM.sub(lambda found: known.setdefault(found[0], f"#{len(known)}"), text) for text in answers]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_remembered() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_list, "FRESH", 0.0)
        patch.setattr(model_list, "NAMES_FRESH", -1.0)
        patch.setattr(queue_positions, "FRESH", -1.0)
        patch.setattr(api_keys, "FRESH", 0.0)
        patch.setattr(Concepts, "refresh_names", lambda self: self.model_list.refresh())
        patch.setattr(
            VideoService, "start", lambda self: None
        )  # jobs stay queued, at every pace of this machine
        yield


def played(calls: Sequence[Call]) -> World:
    scopes = ("videos:read", "videos:write", "concepts", "keys", "adapters")
    keys = [
        ApiKey(sha256=hash_key(key), tenant=name, scopes=scopes, concurrency=3) for name, key in KEYS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        data, registry = f"{folder}/data", f"{folder}/registry"
        with api_over(FakeEngine(), data_dir=data, registry=registry, api_keys=keys) as api:
            world = World(Path(folder), api)
            world.play(calls)
            return world


@settings(max_examples=20, deadline=None)
@given(calls)
def test_neither_of_two_tenants_can_tell_that_the_other_exists(calls: list[Call]):
    together = played(calls)
    for tenant in TENANTS:
        alone = played([call for call in calls if call[0] == tenant])
        assert numbered(together.seen[tenant]) == numbered(alone.seen[tenant])


def test_the_comparison_finds_a_difference():
    """Otherwise the test above could not fail: with a concept that is everyone's, the other's answer differs."""
    call: Call = ("bob", "model", "walk", 0)
    together, alone = played([("alice", "publish", "walk", 0), call]), played([call])
    assert numbered(together.seen["bob"]) == numbered(alone.seen["bob"])
    shared = [("alice", "publish", "walk", 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.tenants.tenants.private_name", lambda id, concept: concept)
        assert numbered(played([*shared, call]).seen["bob"]) != numbered(alone.seen["bob"])
