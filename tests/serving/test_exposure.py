"""Who may reach a server: keys, hosts, the data folder; and the file `serve deploy` reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from infra.errors import UserError
from serving.config import ServeConfig, check_exposure, is_loopback, make_config
from serving.keys import API_KEY_VARIABLE, ApiKey, find_key, hash_key, read_api_keys

KEY = "a-long-and-random-key"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(host: str):
    assert is_loopback(host)
    check_exposure(host, [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org", ""])
def test_beyond_loopback_a_key_is_needed(host: str):
    with pytest.raises(UserError, match="no API key"):
        check_exposure(host, [])
    check_exposure(host, [ApiKey(sha256=hash_key(KEY))])


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
    """What `serve deploy` does with the example in serving/deployment.py, up to the cluster."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    import serving.deployment as deployment

    example = deployment.__doc__.split("a file like\n")[1].split("\n\nAn engine")[0]
    file = ServeDeploySchema.model_validate(yaml.safe_load(example))
    [application] = file.applications
    assert application.import_path == "serving.deployment:build_app"
    app = call_user_app_builder_with_args_if_necessary(deployment.build_app, application.args)
    assert app._bound_deployment.name == "ingress"
    assert file.http_options.host == "127.0.0.1"
    with pytest.raises(ValueError, match="extra_forbidden"):
        call_user_app_builder_with_args_if_necessary(deployment.build_app, {"slot": 3})
