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
from serving.keys import API_KEY_FILE_VARIABLE, API_KEY_VARIABLE, ApiKey, hash_key
from serving.ray import gate as gate_module
from serving.ray.deployment import build_app
from serving.ray.gate import CALLBACK_VARIABLE, HASHES_VARIABLE, OPEN, Gate, environment, middlewares
from serving.ray.ingress import MOST_WAITING

KEY = "a-key-of-many-random-characters"
GUARDED = ["/v1/videos", "/v1/models", "/v1/adapters/pin", "/v1/nothing", "/metrics"]
PUBLIC = ["/healthz", "/readyz", "/docs", "/openapi.json", "/nothing", "/-/healthz"]


class Ingress:
    """What is behind the gate: counts who comes through, and holds them while it is told to."""

    def __init__(self) -> None:
        self.came, self.free = 0, asyncio.Event()
        self.free.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came += 1
        await self.free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    gate: Gate, path: str, *authorization: str, kind: str = "http"
) -> tuple[int, dict[str, str], dict]:
    """(status, headers, body) of a request whose body never comes."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the gate reads no body")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", value.encode()) for value in authorization]
    await gate({"type": kind, "path": path, "headers": headers}, receive, send)
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


def test_a_websocket_without_a_key_is_no_way_in():
    ingress = Ingress()
    assert asyncio.run(ask(gate_of(ingress), "/v1/videos", kind="websocket"))[0] == 1008
    assert ingress.came == 0


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch):
    for name in (CALLBACK_VARIABLE, HASHES_VARIABLE, API_KEY_FILE_VARIABLE, API_KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_rays_proxy_builds_the_gate_from_the_variables_that_serve_sets(variables, tmp_path: Path):
    told = environment([ApiKey(sha256=hash_key(KEY)), ApiKey(sha256="ab" * 32)])
    assert KEY not in str(told)
    for name, value in told.items():
        variables.setenv(name, value)
    variables.setattr(http_util, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", told[CALLBACK_VARIABLE])
    [made] = http_util.configure_http_middlewares(HTTPOptions()).middlewares
    app = http_util._apply_middlewares(Ingress(), [made])
    assert isinstance(app, Gate)
    assert app._hashes == {hash_key(KEY), "ab" * 32}
    file = tmp_path / "keys"
    file.write_text("another-key-of-a-cluster")
    variables.setenv(API_KEY_FILE_VARIABLE, str(file))
    variables.delenv(HASHES_VARIABLE)
    assert middlewares()[0].kwargs == {"hashes": frozenset({hash_key("another-key-of-a-cluster")})}


def test_the_service_on_kubernetes_has_the_gate_where_its_keys_are():
    manifest = Path(__file__).parents[3] / "infra/kubernetes/service/service.yaml"
    (service,) = [
        thing for thing in yaml.safe_load_all(manifest.read_text()) if thing["kind"] == "RayService"
    ]
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    told = {variable["name"]: variable.get("value") for variable in head["env"]}
    assert told[CALLBACK_VARIABLE] == environment([ApiKey(sha256="ab" * 32)])[CALLBACK_VARIABLE]
    assert API_KEY_FILE_VARIABLE in told


def test_a_server_without_keys_has_no_gate(variables):
    assert environment([]) == {}
    assert middlewares() == []


def test_what_waits_for_an_ingress_is_bounded_and_the_rest_told_when_to_come_back():
    options = build_app(ServeConfig(api_key_hashes=["ab" * 32]))._bound_deployment
    assert options.max_queued_requests == MOST_WAITING
    assert (options.backpressure_config.status_code, options.backpressure_config.retry_after_s) == (503, 1.0)
    assert gate_module.OPEN < MOST_WAITING
