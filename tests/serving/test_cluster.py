"""On a cluster the keys come from a mounted file, and without keys nothing is served."""

import pytest
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from infra.errors import UserError
from serving.cluster import API_KEY_FILE_VARIABLE, build_app, with_keys
from serving.config import ServeConfig
from serving.keys import API_KEY_VARIABLE, hash_key

KEY = "a-key-of-many-random-characters"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.delenv(API_KEY_FILE_VARIABLE, raising=False)
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


def hashes(config: ServeConfig) -> list[str]:
    return [key.sha256 for key in with_keys(config).keys]


def test_keys_are_read_from_the_mounted_file(monkeypatch, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\nsha256:{'ab' * 32}\n")
    monkeypatch.setenv(API_KEY_FILE_VARIABLE, str(file))
    assert hashes(ServeConfig()) == [hash_key(KEY), "ab" * 32]
    assert hashes(ServeConfig(api_key_hashes=["ab" * 32])) == ["ab" * 32, hash_key(KEY)]


def test_without_keys_there_is_no_server(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="there is no API key; set MOTIONDIRECTOR_API_KEY_FILE"):
        build_app(ServeConfig())
    monkeypatch.setenv(API_KEY_FILE_VARIABLE, str(tmp_path / "not-there"))
    with pytest.raises(UserError, match="cannot be read"):
        build_app(ServeConfig())


def test_serve_builds_it_from_plain_arguments():
    application = call_user_app_builder_with_args_if_necessary(build_app, {"api_key_hashes": ["ab" * 32]})
    assert type(application).__name__ == "Application"
    with pytest.raises(ValueError, match="replica"):
        call_user_app_builder_with_args_if_necessary(build_app, {"replica": 2})
