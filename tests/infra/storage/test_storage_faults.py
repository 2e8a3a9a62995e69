"""Each thing that goes wrong with a storage is retried or said in one sentence, and leaves nothing behind."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from botocore.exceptions import CredentialRetrievalError, MetadataRetrievalError
from botocore.retries.standard import ExponentialBackoff
from faults import Cut, CutUpload, LoseAnswer, Refuse, Stall, faulty

from infra.errors import StorageAway, StorageDenied, UserError
from infra.registry import ADAPTER_FILE, open_registry
from infra.storage import open_storage
from infra.storage.s3 import ATTEMPTS, BucketNotFound, ObjectDenied

SLOW_DOWN = Refuse(503, "SlowDown")


@pytest.fixture
def proxy(s3, monkeypatch):
    """Between this process and the server; endpoint in the environment."""
    with faulty(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def no_pauses(monkeypatch):
    """botocore tries again at once: its growing pauses would only make the tests wait."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


@pytest.fixture
def uri(s3):
    return f"{s3.uri}/{uuid.uuid4().hex}"


def operations(storage, tmp_path):
    """Every operation on the key "key"."""
    source = tmp_path / "source"
    source.write_bytes(b"content")
    return {
        "get": lambda: storage.get("key"),
        "get_file": lambda: storage.get_file("key", tmp_path / "out" / "target"),
        "put": lambda: storage.put("key", b"1"),
        "put_file": lambda: storage.put_file("key", source),
        "put_if_absent": lambda: storage.put_if_absent("key", b"1"),
        "replace_if": lambda: storage.replace_if("key", b"1", '"etag"'),
        "head": lambda: storage.head("key"),
        "exists": lambda: storage.exists("key"),
        "list": lambda: list(storage.list()),
        "delete": lambda: storage.delete("key"),
    }


def refusals(storage, tmp_path):
    """How every operation refuses: {operation: (class, code)}; all must, and leave no file."""
    found = {}
    for name, call in operations(storage, tmp_path).items():
        with pytest.raises(UserError) as caught:
            call()
        found[name] = (type(caught.value), caught.value.code)
        message = caught.value.message
        assert "\n" not in message
        assert storage.endpoint in message
        assert "; " in message, "what to do is missing"
    assert not list(tmp_path.glob("out/*"))
    return found


def test_a_missing_bucket_is_told_by_every_operation(s3, tmp_path):
    storage = open_storage("s3://no-such-bucket/prefix")
    assert set(refusals(storage, tmp_path).values()) == {(BucketNotFound, "bucket_not_found")}
    with pytest.raises(UserError) as caught:
        storage.put("key", b"")
    assert caught.value.message == (
        f"S3 bucket 'no-such-bucket' does not exist at {s3.endpoint}; create it or check the URI."
    )


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_told_by_every_operation(s3, uri, tmp_path, monkeypatch, variable):
    open_storage(uri).put("key", b"1")
    monkeypatch.setenv(variable, "WRONG")
    assert set(refusals(open_storage(uri), tmp_path).values()) == {(StorageDenied, "s3_wrong_credentials")}
    monkeypatch.undo()
    assert open_storage(uri).get("key") == b"1"


def test_denied_access_is_told_by_every_operation(proxy, uri, tmp_path):
    proxy.faults = [Refuse(403, "AccessDenied")] * 100
    assert set(refusals(open_storage(uri), tmp_path).values()) == {(ObjectDenied, "s3_access_denied")}


def test_no_credentials_at_all(s3, uri, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageDenied, match="no S3 credentials"):
        open_storage(uri).get("key")


def test_a_refused_connection_is_one_sentence(s3, uri, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(StorageAway) as caught:
        open_storage(uri).get("key")
    assert caught.value.message.startswith(
        f"no connection to S3 at http://127.0.0.1:{port} (connection refused); "
    )


@pytest.mark.parametrize("settings", [{"AWS_ENDPOINT_URL": "nonsense"}, {"AWS_PROFILE": "no-such-profile"}])
def test_broken_settings_are_one_sentence(s3, uri, monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="settings") as caught:
        open_storage(uri)
    assert caught.value.code == "invalid_s3_settings"


@pytest.mark.usefixtures("no_pauses")
def test_three_503_are_survived(proxy, uri, tmp_path):
    storage = open_storage(uri)
    proxy.faults = [SLOW_DOWN] * 3
    storage.put("key", b"content")
    assert [method for method, _ in proxy.seen] == ["PUT"] * 4
    proxy.faults = [SLOW_DOWN] * 3
    storage.get_file("key", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"
    assert proxy.faults == []


@pytest.mark.usefixtures("no_pauses")
def test_503_for_ever_is_one_sentence(proxy, uri):
    proxy.faults = [SLOW_DOWN] * 100
    with pytest.raises(StorageAway, match=f"503 SlowDown to {ATTEMPTS} attempts"):
        open_storage(uri).get("key")
    assert len(proxy.seen) == ATTEMPTS


def test_an_answer_that_breaks_off_is_asked_for_again(proxy, uri, tmp_path):
    content = os.urandom(300_000)
    storage = open_storage(uri)
    storage.put("key", content)
    proxy.methods = {"GET"}
    proxy.faults = [Cut(), Cut()]
    assert storage.get("key") == content
    proxy.faults = [Cut(), Cut()]
    storage.get_file("key", tmp_path / "out" / "target")
    assert (tmp_path / "out" / "target").read_bytes() == content
    assert proxy.faults == []


def test_answers_that_always_break_off_are_one_sentence_and_leave_nothing(proxy, uri, tmp_path):
    storage = open_storage(uri)
    storage.put("key", os.urandom(300_000))
    proxy.methods = {"GET"}
    proxy.faults = [Cut()] * 100
    for call in (lambda: storage.get("key"), lambda: storage.get_file("key", tmp_path / "out" / "target")):
        with pytest.raises(StorageAway, match="was interrupted 5 times"):
            call()
    assert not list((tmp_path / "out").iterdir())


def test_an_upload_that_breaks_off_is_sent_again_and_never_kept_half(proxy, uri):
    content = os.urandom(300_000)
    storage = open_storage(uri)
    proxy.methods, proxy.faults = {"PUT"}, [CutUpload()]
    storage.put("key", content)
    assert storage.get("key") == content
    proxy.faults = [CutUpload()] * 100
    with pytest.raises(UserError, match="no connection to S3"):
        storage.put("key", content[::-1])
    proxy.faults = []
    assert storage.get("key") == content


def test_a_conflict_of_conditional_writes_is_tried_again(proxy, uri):
    proxy.faults = [Refuse(409, "ConditionalRequestConflict")] * 2
    storage = open_storage(uri)
    assert storage.put_if_absent("key", b"1")
    assert not storage.put_if_absent("key", b"2")
    assert storage.get("key") == b"1"


def test_a_lost_answer_publishes_one_version(proxy, uri, tmp_path):
    registry = open_registry(uri)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / ADAPTER_FILE).write_bytes(b"weights")
    proxy.methods = {"PUT"}
    proxy.faults = [None, LoseAnswer()]  # the object, then the pointer
    assert registry.publish("orbit", folder, metadata={}).number == 1
    assert len([1 for method, path in proxy.seen if method == "PUT" and "versions/1.json" in path]) == 2
    assert [version.number for version in registry.versions("orbit")] == [1]


# --- a full disk ---------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from pathlib import Path
from infra.errors import UserError
from infra.registry import open_registry
from infra.storage import open_storage
what, uri, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow beyond: as if the disk were full
store = open_storage(folder / "store")
calls = {
    "put": lambda: store.put("deep/key", bytes(200_000)),
    "put_if_absent": lambda: store.put_if_absent("key", bytes(200_000)),
    "put_file": lambda: store.put_file("key", folder / "big"),
    "get_file": lambda: open_storage(uri).get_file("big", folder / "out" / "target"),
    "pull": lambda: open_registry(uri).pull(open_registry(uri).resolve("orbit"), folder / "out" / "orbit"),
}
try:
    calls[what]()
except UserError as error:
    print(type(error).__name__, error.code, error.message)
"""


@pytest.mark.parametrize("what", ["put", "put_if_absent", "put_file", "get_file", "pull"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(s3, uri, tmp_path, what):
    (tmp_path / "big").write_bytes(bytes(200_000))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / ADAPTER_FILE).write_bytes(bytes(200_000))
    open_storage(uri).put("big", bytes(200_000))
    open_registry(uri).publish("orbit", tmp_path / "adapter", metadata={})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, what, uri, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("StorageFull disk_full "), done.stderr
    assert len(done.stdout.splitlines()) == 1
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"big", ADAPTER_FILE}


@pytest.mark.parametrize(
    "error",
    [
        CredentialRetrievalError(provider="iam-role", error_msg="no answer"),
        MetadataRetrievalError(error_msg="no answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_credentials_that_cannot_be_had_just_now_are_worth_another_try(s3, uri, tmp_path, monkeypatch, error):
    """Those of an instance role are fetched again and again; that of the way to them may fail as any other."""
    storage = open_storage(uri)

    def away(*_, **__):
        raise error

    monkeypatch.setattr(storage.client, "_make_api_call", away)
    assert set(refusals(storage, tmp_path).values()) == {(StorageAway, "s3_credentials_unavailable")}


AWAY = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT]


@pytest.mark.parametrize("number", AWAY)
@pytest.mark.parametrize("operation", ["get", "get_file", "head", "replace_if"])
def test_a_network_file_system_that_is_gone_is_away_and_not_absent(tmp_path, monkeypatch, number, operation):
    storage = open_storage(tmp_path / "mounted")
    storage.put("key", b"1")
    calls = operations(storage, tmp_path)

    def gone(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "stat", gone)
    monkeypatch.setattr(Path, "read_bytes", gone)
    with pytest.raises(UserError, match="the file system does not answer") as caught:
        calls[operation]()
    assert (type(caught.value), caught.value.code) == (StorageAway, "storage_unreachable")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_the_disk_says_becomes_a_sentence(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    storage = open_storage(tmp_path)
    storage.put("key", b"before")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError) as caught:
        storage.put("key", b"after")
    assert caught.value.code == {errno.EROFS: "access_denied", errno.EIO: "storage_unreachable"}.get(
        number, "disk_full"
    )
    assert storage.get("key") == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    storage = open_storage(tmp_path)
    storage.put("key", b"1")
    with pytest.raises(UserError, match="key"):
        storage.put("key/below", b"2")
    with pytest.raises(UserError, match="not a file"):
        storage.put_file("other", tmp_path / "absent")


# --- killed ----------------------------------------------------------------------------------------------------

WRITER = """
import itertools, sys
from infra.storage import open_storage
storage = open_storage(sys.argv[1])
print("ready", flush=True)
for turn in itertools.count():
    storage.put("key", bytes([65 + turn % 2]) * 3_000_000)
"""


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.023, 0.041, 0.067])
def test_a_killed_writer_leaves_the_old_or_the_new(storage, delay):
    storage.put("key", b"A" * 3_000_000)
    child = subprocess.Popen([sys.executable, "-c", WRITER, storage.uri], stdout=subprocess.PIPE)
    child.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert storage.get("key") in (b"A" * 3_000_000, b"B" * 3_000_000)
    assert [info.key for info in storage.list()] == ["key"]


def test_a_killed_pull_leaves_no_folder_and_the_next_one_works(proxy, uri, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / ADAPTER_FILE).write_bytes(os.urandom(500_000))
    registry = open_registry(uri)
    version = registry.publish("orbit", tmp_path / "adapter", metadata={})
    stall = Stall()
    target = tmp_path / "out" / "orbit"
    code = (
        "import sys; from pathlib import Path; from infra.registry import open_registry\n"
        "registry = open_registry(sys.argv[1]); version = registry.resolve('orbit')\n"
        "print('ready', flush=True); sys.stdin.readline(); registry.pull(version, Path(sys.argv[2]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, uri, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    proxy.methods, proxy.faults = {"GET"}, [stall]
    child.stdin.write(b"go\n")
    child.stdin.flush()
    assert stall.reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    stall.over.set()
    assert not target.exists()
    registry.pull(version, target)
    assert (target / ADAPTER_FILE).read_bytes() == (tmp_path / "adapter" / ADAPTER_FILE).read_bytes()


def test_a_killed_publisher_publishes_nothing(proxy, uri, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / ADAPTER_FILE).write_bytes(os.urandom(500_000))
    stall = Stall()
    proxy.methods, proxy.faults = {"PUT"}, [stall]
    code = (
        "import sys; from pathlib import Path; from infra.registry import open_registry\n"
        "open_registry(sys.argv[1]).publish('orbit', Path(sys.argv[2]), metadata={})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, uri, str(tmp_path / "adapter")])
    assert stall.reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    stall.over.set()
    registry = open_registry(uri)
    assert registry.concepts() == []
    assert registry.publish("orbit", tmp_path / "adapter", metadata={}).number == 1


def test_the_loopback_server_ends_with_its_parent():
    code = (
        "import os, signal; from infra.storage.s3server import LoopbackS3\n"
        "server = LoopbackS3('demo'); server.__enter__(); print(server.process.pid, server.endpoint, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120)
    pid, endpoint = done.stdout.split()
    port = int(endpoint.rpartition(":")[2])
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError(f"server {pid} still listens at {endpoint}")
