"""Who may reach a server: keys, hosts, the data folder; and the file `serve deploy` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from infra.errors import UserError
from serving.config import ServeConfig, check_exposure, is_loopback, make_config
from serving.keys import API_KEY_VARIABLE, find_key, hash_key, read_api_keys

KEY = "a-long-and-random-key"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(host: str):
    assert is_loopback(host)
    check_exposure(host, False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org", ""])
def test_beyond_loopback_a_key_is_needed(host: str):
    with pytest.raises(UserError, match="no API key"):
        check_exposure(host, False)
    check_exposure(host, True)


def test_keys_come_from_a_file_or_the_environment_and_only_their_hashes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\nsha256:{hash_key('another-long-random-key')}\n")
    monkeypatch.setenv(API_KEY_VARIABLE, "key-from-the-environment")
    keys = read_api_keys(file)
    hashes = [key.sha256 for key in keys]
    assert hashes == [hash_key(k) for k in (KEY, "another-long-random-key", "key-from-the-environment")]
    assert KEY not in ServeConfig(api_keys=keys).model_dump_json()
    assert find_key("another-long-random-key", keys) == keys[1]
    assert find_key("wrong", keys) is None
    assert find_key("", keys) is None
    assert find_key(hashes[0], keys) is None, "a hash is no key"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no key"),
        ("short", "5 characters"),
        ("sha256:xyz", "64 hex digits"),
        (None, "cannot be read"),
    ],
)
def test_a_key_file_that_protects_nothing_is_refused(tmp_path: Path, content: str | None, message: str):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_api_keys(file)


def test_a_wrong_option_is_named():
    with pytest.raises(UserError, match="--dtype 'float8'"):
        make_config(dtype="float8")


def test_the_deployment_file_of_the_documentation_builds_the_application():
    """What `serve deploy` does with the example in serving/ray/deployment.py, up to the cluster."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    import serving.ray.deployment as deployment

    example = deployment.__doc__.split("a file like\n")[1].split("\n\nAn engine")[0]
    file = ServeDeploySchema.model_validate(yaml.safe_load(example))
    [application] = file.applications
    assert application.import_path == "serving.ray.deployment:build_app"
    app = call_user_app_builder_with_args_if_necessary(deployment.build_app, application.args)
    assert app._bound_deployment.name == "ingress"
    assert file.http_options.host == "127.0.0.1"
    with pytest.raises(ValueError, match="extra_forbidden"):
        call_user_app_builder_with_args_if_necessary(deployment.build_app, {"slot": 3})


STRUCTURED = f"""
keys:
  - key: {KEY}
    name: alice
    scopes: [videos:read, adapters]
    requests_per_minute: 60
    concurrency: 4
    max_priority: 1
    webhook_secret: whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0
  - key: sha256:{hash_key("another-long-random-key")}
"""


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_structured_key_file_says_what_each_key_may_do(tmp_path: Path, suffix: str):
    file = tmp_path / f"keys{suffix}"
    file.write_text(STRUCTURED if suffix != ".json" else json.dumps(yaml.safe_load(STRUCTURED)))
    alice, other = read_api_keys(file)
    assert find_key(KEY, [alice, other]) is alice
    assert (alice.name, alice.scopes, alice.max_priority) == ("alice", ("videos:read", "adapters"), 1)
    assert (alice.requests_per_minute, alice.concurrency) == (60, 4)
    assert other.scopes == ("videos:read", "videos:write", "concepts")
    assert other.concurrency is None
    shown = ServeConfig(api_keys=[alice, other]).model_dump_json() + repr(alice)
    assert KEY not in shown
    assert "c2VjcmV0" not in shown


TENANTS = f"""
keys:
  - {{key: {KEY}, tenant: alice, concurrency: 4, scopes: ["videos:read"]}}
  - {{keys: [{KEY}-2, "sha256:{hash_key("bobs")}"], tenant: bob}}
  - {{key: {KEY}-3, tenant: alice, concurrency: 4, max_priority: 1}}
  - {{key: {KEY}-4}}
"""


def test_keys_of_one_tenant_are_one_and_a_key_without_is_its_own(tmp_path: Path):
    file = tmp_path / "keys.yaml"
    file.write_text(TENANTS)
    keys = read_api_keys(file)
    assert [key.tenant for key in keys] == ["alice", "bob", "bob", "alice", hash_key(f"{KEY}-4")[:16]]
    assert [keys[0].scopes, keys[3].max_priority] == [("videos:read",), 1], "what a key may do is its own"
    again = ServeConfig.model_validate(ServeConfig(api_keys=keys).model_dump())
    assert [key.tenant for key in again.keys] == [key.tenant for key in keys]
    plain = tmp_path / "keys"
    plain.write_text(KEY)
    assert [key.tenant for key in read_api_keys(plain)] == [hash_key(KEY)[:16]], "as it always was"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{key: KEY, tenant: a, concurrency: 1}, {key: KEY-2, tenant: a}", "tenant a differ in concurrency"),
        ("{key: KEY, tenant: a, requests_per_minute: 1}, {key: KEY-2, tenant: a}", "requests_per_minute"),
        ("{keys: [KEY, KEY-2]}", "several keys share one tenant"),
        ("{key: KEY, keys: [KEY-2]}", "entry 1 has no `key:`"),
        ("{keys: [], tenant: a}", "entry 1 has no `key:`"),
        ("{keys: [1234567890123456], tenant: a}", "entry 1 has no `key:`"),
        ("{key: KEY, tenant: ''}", "entry 1: tenant"),
        ("{key: KEY, tenant: 'a b'}", "entry 1: tenant"),
        ("{key: KEY, tenant: 7}", "entry 1: tenant"),
    ],
)
def test_tenants_that_make_no_sense_are_refused(tmp_path: Path, content: str, message: str):
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: [{content.replace('KEY', KEY)}]")
    with pytest.raises(UserError, match=message) as caught:
        read_api_keys(file)
    assert KEY not in caught.value.message


def test_a_configuration_whose_tenants_differ_is_refused():
    keys = [{"sha256": "a" * 64, "tenant": "a", "concurrency": n} for n in (1, 2)]
    with pytest.raises(UserError, match="tenant a differ in concurrency"):
        make_config(api_keys=keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("keys: [", "not YAML or JSON"),
        ("keys: 2023-99-99", "not YAML or JSON"),
        ("- key: a-long-and-random-key", "one list `keys:`"),
        ("keys: []", "holds no key"),
        ("keys: [{name: alice}]", "entry 1 has no `key:`"),
        ("keys: [{key: 1234567890123456}]", "entry 1 has no `key:`"),
        ("keys: [{key: short}]", "5 characters"),
        (
            "keys: [{key: a-long-and-random-key}, {key: a-long-and-random-kez, concurrency: 0}]",
            "entry 2: concurrency",
        ),
        ("keys: [{key: a-long-and-random-key, scopes: [everything]}]", "entry 1: scopes"),
        ("keys: [{key: a-long-and-random-key, quota: 3}]", "entry 1: quota"),
        ("keys: [{key: a-long-and-random-key, webhook_secret: abc}]", "whsec_"),
        ("keys: [{key: a-long-and-random-key, requests_per_minute: -1}]", "requests_per_minute"),
    ],
)
def test_a_structured_key_file_with_a_fault_says_where(tmp_path: Path, content: str, message: str):
    file = tmp_path / "keys.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_api_keys(file)
    assert "a-long-and-random" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"webhook_networks": ["everywhere"]}, "--webhook-network 'everywhere'"),
        ({"webhook_secret": "short-and-secret"}, "--webhook-secret"),
        ({"max_queue": 0}, "--max-queue"),
        ({"engine_gpus": -1}, "--gpus -1"),
        ({"job_ttl": "never"}, "--job-ttl 'never'"),
        ({"warm_sizes": ["8x64x64", "64x64"]}, "--warm-size '64x64': .*FRAMESxHEIGHTxWIDTH"),
    ],
)
def test_a_wrong_setting_of_the_service_is_named_and_a_secret_not_repeated(fields: dict, option: str):
    with pytest.raises(UserError, match=option) as caught:
        make_config(**fields)
    assert "short-and-secret" not in caught.value.message
