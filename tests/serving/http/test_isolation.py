"""What a tenant is answered does not depend on whether another tenant is there.

Random calls of two tenants, mixed; then the calls of each by a new tenant that is alone: it must get the same
answers, up to random ids and times. All are on one server, so what earlier tenants left does not show either.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from infra.registry import ADAPTER_FILE, Registry, open_registry
from serving.adapters import model_list
from serving.adapters.concepts import Concepts
from serving.http.service import VideoService
from serving.jobs import queue_positions
from serving.keys import ApiKey, hash_key
from serving.tenants import api_keys

TENANTS = ("alice", "bob")
SCOPES = ("videos:read", "videos:write", "concepts", "keys", "adapters")
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
                "models", "model", "preview", "delete model", "share", "pin", "unpin", "residents", "keys", "usage",
            ]
        ),
        st.sampled_from(NAMES),
        st.integers(0, 2),
    ),
    max_size=12,
)  # fmt: skip


class World:
    """New tenants on the server, what they made, and what they were answered."""

    numbers = itertools.count()

    def __init__(self, api: TestClient, folder: Path, whose: Sequence[str] = TENANTS) -> None:
        self.api, self.folder, self.registry = api, folder, open_registry(folder / "registry")
        number = next(self.numbers)
        self.names = {who: f"{who}-{number}" for who in whose}
        for name in self.names.values():
            key = ApiKey(sha256=hash_key(key_of(name)), tenant=name, scopes=SCOPES, concurrency=3)
            api.service.keys.fixed.append(key)  # type: ignore[attr-defined]
        self.videos: dict[str, list[str]] = {who: [] for who in self.names}
        self.seen: dict[str, list[str]] = {who: [] for who in self.names}

    def publish(self, who: str, concept: str) -> str:
        concept = concept.partition("@")[0]
        tenants = self.api.service.tenants  # type: ignore[attr-defined]
        name = tenants.registry_name(self.names[who], concept)
        return publish(self.registry, self.folder, name, f"{who} {concept}").split(".")[-1]

    def play(self, played: Sequence[Call]) -> None:
        for call in played:
            self.seen[call[0]].append(self.answer(*call))

    def answer(self, who: str, what: str, name: str, which: int) -> str:
        """Make a call; its answer as text."""
        if what == "publish":
            return self.publish(who, name)
        mine = self.videos[who]
        video = mine[which % len(mine)] if mine else "video_" + "0" * 32
        others = [id for other in self.videos if other != who for id in self.videos[other]]
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
            "preview": ("GET", f"/v1/models/foundation:{name}/preview", None),
            "delete model": ("DELETE", f"/v1/models/foundation:{name}", None),
            "share": ("POST", f"/v1/models/foundation:{name}/share", {"tenants": ["nobody"]}),
            "pin": ("POST", "/v1/adapters/prefetch", {"name": name}),
            "unpin": ("POST", "/v1/adapters/unpin", {"name": name}),
            "residents": ("GET", "/v1/adapters", None),
            "keys": ("GET", "/v1/keys", None) if which else ("POST", "/v1/keys", {"role": "viewer"}),
            "usage": ("GET", "/v1/usage", None),
        }[what]
        headers = {"Authorization": f"Bearer {key_of(self.names[who])}"}
        answer = self.api.request(method, path, json=sent, headers=headers)
        assert answer.status_code < 500, answer.text
        told = answer.json()
        is_new = str(told.get("id", "")).startswith("video_") and "deleted" not in told
        if is_new and told["id"] not in mine:
            mine.append(told["id"])
        text = json.dumps([answer.status_code, without_times(told)])
        text = text.replace(self.names[who], "ME")
        assert not any(name in text for name in TENANTS), text
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


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[TestClient, Path]]:
    """A server with one concept of everyone's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = open_registry(folder / "registry")
        publish(registry, folder, "orbit", "everyone's")
        keys = [ApiKey(sha256=hash_key("the-key-of-somebody-else"))]
        settings = {"data_dir": f"{name}/data", "registry": registry.uri, "api_keys": keys}
        with api_over(FakeEngine(), max_queue=10**6, **settings) as api:
            yield api, folder


def publish(registry: Registry, folder: Path, name: str, content: str) -> str:
    (folder / "files").mkdir(exist_ok=True)
    number = len(registry.numbers(name, "versions"))
    (folder / "files" / ADAPTER_FILE).write_text(f"{content} {number}")
    return registry.publish(name, folder / "files", metadata={"foundation_fingerprint": INFO.fingerprint}).ref


def key_of(name: str) -> str:
    return f"the-key-of-{name}-0123456789"


def played(server: tuple[TestClient, Path], calls: Sequence[Call]) -> World:
    world = World(*server, whose=sorted({who for who, *_ in calls}))
    world.play(calls)
    return world


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(calls=calls)
def test_neither_of_two_tenants_can_tell_that_the_other_exists(server, calls: list[Call]):
    together = played(server, calls)
    for who in together.seen:
        alone = played(server, [call for call in calls if call[0] == who])
        assert numbered(together.seen[who]) == numbered(alone.seen[who])


def test_the_comparison_finds_a_difference(server):
    """Otherwise the test above could not fail: where names are not kept apart, the answers differ."""
    asked: list[Call] = [("alice", "publish", "walk", 0), ("bob", "model", "walk", 0)]
    together, alone = played(server, asked), played(server, asked[1:])
    assert numbered(together.seen["bob"]) == numbered(alone.seen["bob"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.tenants.tenants.private_name", lambda id, concept: concept)
        assert numbered(played(server, asked).seen["bob"]) != numbered(alone.seen["bob"])
