"""A local session's token is asked for by name, and nobody but its owner reads it."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray._raylet import (
    AuthenticationMode,
    AuthenticationTokenLoader,
    Config,
    get_authentication_mode,
)

from infra.errors import UserError
from infra.ray.token import GIVEN, MODE, ensure_token, token_required


@pytest.fixture
def token(monkeypatch, tmp_path):
    """Where Ray looks for its token, in a home without one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (MODE, *GIVEN):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


@pytest.fixture(autouse=True)
def _as_before():
    """Ray's own copy of its settings is the process's."""
    yield
    Config.initialize("")


def asks() -> bool:
    """Whether Ray would ask for a token, and give it."""
    return get_authentication_mode() == AuthenticationMode.TOKEN


def start() -> None:
    with token_required():
        pass


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_that_only_its_owner_reads(token):
    with token_required():
        assert asks()
        assert AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    assert MODE not in os.environ
    assert (mode_of(token), mode_of(token.parent)) == (0o600, 0o700)
    made = token.read_text()
    assert len(bytes.fromhex(made)) == 32
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    start()
    assert token.read_text() == made


def test_a_token_that_ray_made_is_closed_to_others_and_stays(token):
    token.parent.mkdir()
    token.write_text("f" * 64)
    token.chmod(0o644)
    start()
    assert (token.read_text(), mode_of(token)) == ("f" * 64, 0o600)


def test_of_sessions_that_start_at_once_all_have_one_token(token):
    def made(_: int) -> str:
        ensure_token(token)
        return token.read_text()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(made, range(32)))) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_TOKEN", "f" * 64), ("RAY_AUTH_TOKEN_PATH", "/a/file")]
)
def test_a_token_of_the_users_own_is_used(token, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with token_required():
        assert asks()
    assert not token.parent.exists()


def test_who_switches_it_off_is_obeyed(token, monkeypatch):
    monkeypatch.setenv(MODE, "disabled")
    with token_required():
        assert not asks()
    assert os.environ[MODE] == "disabled"
    assert not token.parent.exists()


def test_a_home_that_cannot_be_written_is_one_sentence(token):
    token.parent.write_text("a file")
    with pytest.raises(UserError, match=r"writing .*auth_token"):
        start()
