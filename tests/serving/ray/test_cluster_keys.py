"""On a cluster keys and the webhooks' secret come from outside, without keys nothing is served, and jobs stay at hand."""

import asyncio
import pickle
from collections.abc import Callable

import pytest
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from infra.errors import UserError
from serving.cluster import API_KEY_FILE_VARIABLE, build_app, with_keys
from serving.config import ServeConfig
from serving.keys import API_KEY_VARIABLE, WEBHOOK_SECRET_VARIABLE, hash_key, read_webhook_secret
from serving.ray import deployment
from serving.ray.deployment import HEAD

KEY = "a-key-of-many-random-characters"
SECRET, OTHER = (f"whsec_{word * 8}" for word in ("c2Vj", "b3Ro"))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.delenv(API_KEY_FILE_VARIABLE, raising=False)
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    monkeypatch.delenv(WEBHOOK_SECRET_VARIABLE, raising=False)


def hashes(config: ServeConfig) -> list[str]:
    return [key.sha256 for key in with_keys(config).keys]


def test_keys_are_read_from_the_mounted_file(monkeypatch, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\nsha256:{'ab' * 32}\n")
    monkeypatch.setenv(API_KEY_FILE_VARIABLE, str(file))
    assert hashes(ServeConfig()) == [hash_key(KEY), "ab" * 32]
    assert hashes(ServeConfig(api_key_hashes=["ab" * 32])) == ["ab" * 32, hash_key(KEY)]


def test_tenants_are_one_each_wherever_their_keys_come_from(monkeypatch, tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: [{{key: {KEY}, tenant: alice, concurrency: 1}}]")
    monkeypatch.setenv(API_KEY_FILE_VARIABLE, str(file))
    config = ServeConfig(api_keys=[{"sha256": "ab" * 32, "tenant": "alice", "concurrency": 2}])
    with pytest.raises(UserError, match="tenant alice differ in concurrency"):
        with_keys(config)


def test_without_keys_there_is_no_server(monkeypatch, tmp_path):
    ingress = of_ingress(build_app(ServeConfig()))
    with pytest.raises(UserError, match="there is no API key; set MOTIONDIRECTOR_API_KEY_FILE"):
        ingress()
    monkeypatch.setenv(API_KEY_FILE_VARIABLE, str(tmp_path / "not-there"))
    with pytest.raises(UserError, match="cannot be read"):
        ingress()


def test_an_ingress_without_keys_does_not_start(monkeypatch, tmp_path):
    bound = build_app(ServeConfig(data_dir=str(tmp_path)))._bound_deployment
    config, _, secrets, *_ = bound.init_args
    replica = bound.func_or_class.__new__(bound.func_or_class)
    with pytest.raises(UserError, match="there is no API key"):
        asyncio.run(replica.__init__(config, None, secrets))
    assert list(tmp_path.iterdir()) == []


def test_engines_are_told_no_secret_wherever_the_application_is_built(monkeypatch, tmp_path):
    """Serve builds it on any node, and what engines are made with is on all of theirs."""
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    monkeypatch.setenv(WEBHOOK_SECRET_VARIABLE, SECRET)
    given = {
        "api_key_hashes": ["ab" * 32],
        "webhook_secret": OTHER,
        "database": "postgresql://u:password@db/jobs",
    }
    for build in (build_app, deployment.build_app):
        engine = build(ServeConfig(registry="/r", **given))._bound_deployment.init_args[1]._bound_deployment
        (told,) = engine.init_args
        text = told.model_dump_json() + pickle.dumps(told).hex()
        for secret in (KEY, hash_key(KEY), "ab" * 32, SECRET, OTHER, "password"):
            assert secret not in text
            assert secret.encode().hex() not in text
        assert told.registry == "/r"


def test_serve_builds_it_from_plain_arguments():
    application = call_user_app_builder_with_args_if_necessary(build_app, {"api_key_hashes": ["ab" * 32]})
    assert type(application).__name__ == "Application"
    with pytest.raises(ValueError, match="replica"):
        call_user_app_builder_with_args_if_necessary(build_app, {"replica": 2})


def of_ingress(application) -> Callable[[], ServeConfig]:
    """Gives what the application's ingress works with, as it finds that where it runs."""
    config, _engine, secrets, *_ = application._bound_deployment.init_args
    return lambda: pickle.loads(pickle.dumps(secrets))(config)


def configured(application) -> ServeConfig:
    return of_ingress(application)()


@pytest.mark.parametrize(
    ("own", "around", "signs"), [(None, SECRET, SECRET), (OTHER, SECRET, OTHER), (None, None, None)]
)
def test_the_webhooks_secret_comes_from_the_environment_where_the_file_has_none(
    monkeypatch, own, around, signs
):
    if around:
        monkeypatch.setenv(WEBHOOK_SECRET_VARIABLE, f"{around}\n")  # as a mounted file ends
    found = configured(build_app(ServeConfig(api_key_hashes=["ab" * 32], webhook_secret=own))).webhook_secret
    assert (found and found.get_secret_value()) == signs


def test_a_webhooks_secret_that_is_none_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv(WEBHOOK_SECRET_VARIABLE, "short-and-secret")
    with pytest.raises(UserError, match="MOTIONDIRECTOR_WEBHOOK_SECRET: expected whsec_") as caught:
        read_webhook_secret()
    assert "short-and-secret" not in caught.value.message


@pytest.mark.parametrize(
    ("database", "place"),
    [
        (None, {HEAD: 0.001}),
        ("sqlite:////data/jobs.sqlite", {HEAD: 0.001}),
        ("postgresql+psycopg://user@db/jobs", {}),
    ],
)
def test_an_ingress_stays_on_the_head_with_jobs_that_are_a_file_there(database, place):
    ingress = build_app(ServeConfig(api_key_hashes=["ab" * 32], database=database))._bound_deployment
    assert ingress.ray_actor_options.get("resources", {}) == place
    assert ingress.ray_actor_options["num_cpus"] == 0  # the head may have none
