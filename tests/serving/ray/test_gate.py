"""A crowd without keys is turned away in the proxy, and what waits for an ingress is bounded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from ray.serve._private import http_util
from ray.serve.config import HTTPOptions
from starlette.types import Message, Receive, Scope, Send

from serving.config import ServeConfig
from serving.keys import API_KEY_FILE_VARIABLE, API_KEY_VARIABLE, ApiKey, hash_key, key_id
from serving.ray import gate as gate_module
from serving.ray.deployment import build_app
from serving.ray.gate import (
    BODIES,
    CALLBACK_VARIABLE,
    HASHES_VARIABLE,
    LEARNS_VARIABLE,
    OPEN,
    REQUESTS,
    Gate,
    environment,
    middlewares,
)
from serving.ray.ingress import MAX_REQUESTS, MAX_WAITING
from serving.sessions import COOKIE, SESSION_SECRET_VARIABLE, Sessions, new_secret

KEY = "a-key-of-many-random-characters"
GUARDED = ["/v1/videos", "/v1/models", "/v1/adapters/pin", "/v1/nothing", "/metrics"]
PUBLIC = ["/healthz", "/readyz", "/docs", "/openapi.json", "/nothing", "/-/healthz"]


class Ingress:
    """What is behind the gate: counts who comes through, and holds them while it is told to."""

    def __init__(self) -> None:
        self.came, self.free, self.status = 0, asyncio.Event(), 200
        self.free.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came += 1
        await self.free.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    gate: Gate,
    path: str,
    *authorization: str,
    kind: str = "http",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> tuple[int, dict[str, str], dict]:
    """(status, headers, body) of a request whose body never comes."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the gate reads no body")

    async def send(message: Message) -> None:
        sent.append(message)

    named = [(b"authorization", value.encode()) for value in authorization]
    await gate({"type": kind, "path": path, "headers": named + (headers or [])}, receive, send)
    if kind == "websocket":
        return sent[0]["code"], {}, {}
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = sent[1]["body"]
    return sent[0]["status"], told, json.loads(body) if body else {}


def gate_of(ingress: Ingress) -> Gate:
    return Gate(ingress, hashes=frozenset({hash_key(KEY)}))


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "authorization",
    [(), ("Bearer ",), ("Bearer wrong",), (f"Basic {KEY}",), (f"Bearer {hash_key(KEY)}",), (KEY,)],
)
def test_without_a_key_nothing_comes_through_and_no_body_is_read(path: str, authorization: tuple[str, ...]):
    async def main() -> None:
        ingress = Ingress()
        status, headers, body = await ask(gate_of(ingress), path, *authorization)
        assert (status, headers["www-authenticate"], ingress.came) == (401, "Bearer", 0)
        assert set(body["error"]) == {"message", "type", "code", "param"}
        assert body["error"]["code"] == "invalid_api_key"

    asyncio.run(main())


def test_with_a_key_all_comes_through_however_many_without_one_there_are():
    async def main() -> None:
        ingress = Ingress()
        gate = gate_of(ingress)
        ingress.free.clear()
        crowd = [asyncio.create_task(ask(gate, path)) for path in PUBLIC * 200]
        crowd += [asyncio.create_task(ask(gate, path)) for path in GUARDED * 200]
        keyed = [asyncio.create_task(ask(gate, path, f"bearer  {KEY} ")) for path in GUARDED + PUBLIC]
        while ingress.came < OPEN + len(keyed):
            await asyncio.sleep(0)
        turned_away = [task.result() for task in crowd if task.done()]
        assert len(turned_away) == len(crowd) - OPEN, "they have heard so at once"
        busy = [(headers, body) for status, headers, body in turned_away if status == 503]
        assert len(busy) == 200 * len(PUBLIC) - OPEN
        assert {(headers["retry-after"], body["error"]["code"]) for headers, body in busy} == {
            ("1", "overloaded")
        }
        ingress.free.set()
        assert {answer[0] for answer in await asyncio.gather(*keyed)} == {200}
        await asyncio.gather(*crowd)
        assert (await ask(gate, "/healthz"))[0] == 200, "those who have gone made room"

    asyncio.run(main())


@pytest.mark.parametrize("body", [(b"content-length", b"9"), (b"transfer-encoding", b"chunked")])
def test_one_keys_unfinished_bodies_are_bounded_in_the_proxy_and_other_requests_come_through(body):
    async def main() -> None:
        ingress = Ingress()
        gate = Gate(ingress, hashes=frozenset({hash_key(KEY), hash_key("another")}))
        ingress.free.clear()
        slow = [
            asyncio.create_task(ask(gate, "/v1/videos", f"Bearer {KEY}", headers=[body])) for _ in range(700)
        ]
        while ingress.came < BODIES:
            await asyncio.sleep(0)
        turned_away = [task.result() for task in slow if task.done()]
        assert len(turned_away) == 700 - BODIES
        assert {
            (status, told["retry-after"], said["error"]["code"]) for status, told, said in turned_away
        } == {(429, "1", "too_many_bodies")}
        ingress.free.set()
        assert (await ask(gate, "/v1/videos", f"Bearer {KEY}"))[0] == 200, "without a body"
        assert (await ask(gate, "/v1/videos", "Bearer another", headers=[body]))[0] == 200
        await asyncio.gather(*slow)
        assert (await ask(gate, "/v1/videos", f"Bearer {KEY}", headers=[body]))[0] == 200

    asyncio.run(main())


def test_a_body_that_has_arrived_makes_room_while_its_request_is_being_answered():
    async def main() -> None:
        taken, free = asyncio.Event(), asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body"):
                pass
            taken.set()
            await free.wait()

        parts = iter([True, True, False])

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x", "more_body": next(parts)}

        async def send(message: Message) -> None: ...

        gate = Gate(slow, hashes=frozenset({hash_key(KEY)}))
        headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-length", b"3")]
        scope = {"type": "http", "path": "/v1/videos", "headers": headers}
        request = asyncio.create_task(gate(scope, receive, send))
        await taken.wait()
        assert (gate._bodies.total(), gate._requests.total()) == (0, 1)
        free.set()
        await request
        assert (gate._bodies.total(), gate._requests.total()) == (0, 0)

    asyncio.run(main())


def test_one_key_cannot_take_all_of_an_ingress():
    async def main() -> None:
        ingress = Ingress()
        gate = Gate(ingress, hashes=frozenset({hash_key(KEY), hash_key("another")}))
        ingress.free.clear()
        flood = [asyncio.create_task(ask(gate, "/v1/videos", f"Bearer {KEY}")) for _ in range(2000)]
        while ingress.came < REQUESTS:
            await asyncio.sleep(0)
        turned_away = [task.result() for task in flood if task.done()]
        assert len(turned_away) == 2000 - REQUESTS
        assert {(status, said["error"]["code"]) for status, _, said in turned_away} == {
            (429, "too_many_requests")
        }
        ingress.free.set()
        assert (await ask(gate, "/v1/videos", "Bearer another"))[0] == 200
        await asyncio.gather(*flood)
        assert REQUESTS <= (MAX_REQUESTS + MAX_WAITING) // 2

    asyncio.run(main())


def test_a_websocket_without_a_key_is_no_way_in():
    ingress = Ingress()
    assert asyncio.run(ask(gate_of(ingress), "/v1/videos", kind="websocket"))[0] == 1008
    assert ingress.came == 0


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch):
    for name in (
        CALLBACK_VARIABLE,
        HASHES_VARIABLE,
        LEARNS_VARIABLE,
        API_KEY_FILE_VARIABLE,
        API_KEY_VARIABLE,
        SESSION_SECRET_VARIABLE,
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_rays_proxy_builds_the_gate_from_the_variables_that_serve_sets(variables, tmp_path: Path):
    secret = new_secret()
    told = environment([ApiKey(sha256=hash_key(KEY)), ApiKey(sha256="ab" * 32)], True, secret)
    assert KEY not in str(told)
    for name, value in told.items():
        variables.setenv(name, value)
    variables.setattr(http_util, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", told[CALLBACK_VARIABLE])
    [made] = http_util.configure_http_middlewares(HTTPOptions()).middlewares
    app = http_util._apply_middlewares(Ingress(), [made])
    assert isinstance(app, Gate)
    assert app._hashes == {hash_key(KEY), "ab" * 32}
    assert app._sessions.key_of(Sessions(secret).start("key_1")) == "key_1"
    file = tmp_path / "keys"
    file.write_text("another-key-of-a-cluster")
    variables.setenv(API_KEY_FILE_VARIABLE, str(file))
    variables.delenv(HASHES_VARIABLE)
    variables.delenv(LEARNS_VARIABLE)
    assert middlewares()[0].kwargs == {
        "hashes": frozenset({hash_key("another-key-of-a-cluster")}),
        "learns": False,
        "session_secret": secret,
    }


def test_a_key_of_the_database_is_known_once_the_ingress_took_it_and_until_it_refuses_it():
    ingress, other = Ingress(), "a-key-that-only-the-ingress-knows"
    gate = Gate(ingress, hashes=frozenset({hash_key(KEY)}), learns=True)

    async def main() -> None:
        ingress.free.clear()
        waiting = [asyncio.create_task(ask(gate, "/v1/models", f"Bearer {other}{n}")) for n in range(OPEN)]
        while ingress.came < OPEN:
            await asyncio.sleep(0)
        assert (await ask(gate, "/v1/models", f"Bearer {other}"))[0] == 503, "unknown keys share few places"
        health = asyncio.create_task(ask(gate, "/healthz"))
        while ingress.came < OPEN + 1:
            await asyncio.sleep(0)
        ingress.free.set()
        assert [status for status, _, _ in await asyncio.gather(*waiting, health)] == [200] * (OPEN + 1)
        assert (await ask(gate, "/v1/models"))[0] == 401, "without any key nothing is passed on"
        assert hash_key(f"{other}0") in gate._learned
        ingress.status = 404
        await ask(gate, "/v1/nothing", f"Bearer {other}-new")
        assert hash_key(f"{other}-new") not in gate._learned, "an unknown route asks for no key"
        ingress.status = 401
        assert (await ask(gate, "/v1/models", f"Bearer {other}0"))[0] == 401
        assert hash_key(f"{other}0") not in gate._learned

    asyncio.run(main())


def test_the_service_on_kubernetes_has_the_gate_where_its_keys_are():
    manifest = Path(__file__).parents[3] / "infra/kubernetes/service/service.yaml"
    (service,) = [
        thing for thing in yaml.safe_load_all(manifest.read_text()) if thing["kind"] == "RayService"
    ]
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    told = {variable["name"]: variable.get("value") for variable in head["env"]}
    assert told[CALLBACK_VARIABLE] == environment([ApiKey(sha256="ab" * 32)], True)[CALLBACK_VARIABLE]
    assert API_KEY_FILE_VARIABLE in told


def test_a_server_without_keys_has_no_gate(variables):
    assert environment([], False) == {}
    assert middlewares() == []


def test_what_waits_for_an_ingress_is_bounded_and_the_rest_told_when_to_come_back():
    options = build_app(ServeConfig(api_key_hashes=["ab" * 32]))._bound_deployment
    assert options.max_queued_requests == MAX_WAITING
    assert (options.backpressure_config.status_code, options.backpressure_config.retry_after_s) == (503, 1.0)
    assert gate_module.OPEN < MAX_WAITING


def test_a_session_of_the_studio_counts_as_its_key_and_no_other_cookie_does():
    async def main() -> None:
        secret = new_secret()
        cookie = Sessions(secret).start(key_id(hash_key(KEY)))
        named = [(b"cookie", f"other=1; {COOKIE}={cookie}".encode())]
        forged = [(b"cookie", f"{COOKIE}={Sessions(new_secret()).start(key_id(hash_key(KEY)))}".encode())]
        ingress = Ingress()
        gate = Gate(ingress, hashes=frozenset({hash_key(KEY)}), session_secret=secret)
        ingress.free.clear()
        path = "/studio/api/v1/videos"
        signed_in = [asyncio.create_task(ask(gate, path, headers=named)) for _ in range(2 * OPEN)]
        crowd = [asyncio.create_task(ask(gate, path, headers=forged)) for _ in range(2 * OPEN)]
        while ingress.came < 3 * OPEN:
            await asyncio.sleep(0)
        assert not any(task.done() for task in signed_in)
        assert sum(task.done() for task in crowd) == OPEN, "they share the places of those without a key"
        assert (await ask(gate, "/v1/videos", headers=named))[0] == 401, "the API wants the key itself"
        ingress.free.set()
        await asyncio.gather(*signed_in, *crowd)

    asyncio.run(main())
