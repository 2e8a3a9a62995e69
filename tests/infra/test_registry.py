"""Versions are immutable and numbered; publishers at once never overwrite each other."""

import json
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.errors import Conflict, DamagedData, InvalidInput, NotFound, UserError
from infra.registry import ADAPTER_FILE, SPATIAL_FILE, Registry, check_concept_name, open_registry
from infra.storage import open_storage
from infra.storage.objects import get_files, get_object, object_key, put_files, sha256_file


@pytest.fixture
def registry(storage):
    return Registry(storage)


@pytest.fixture
def folder(tmp_path):
    """A folder as training leaves it. The registry never looks into an adapter, so its bytes are free here."""
    return write_folder(tmp_path / "adapter", b"weights" * 1000)


def write_folder(folder, weights):
    (folder / "samples").mkdir(parents=True)
    (folder / ADAPTER_FILE).write_bytes(weights)
    (folder / "adapter_config.json").write_text('{"r": 4}')
    (folder / "samples" / "a.mp4").write_bytes(b"video")
    (folder / ".cache").write_text("not for others")
    return folder


def test_a_published_version_is_found_and_pulled_unchanged(registry, folder, tmp_path):
    version = registry.publish(
        "orbit", folder, metadata={"rank": 4, "captions": ["ein Auto fährt"]}, metrics={"loss": 0.5}
    )
    assert version.ref == "orbit@1"
    assert set(version.files) == {ADAPTER_FILE, "adapter_config.json", "samples/a.mp4"}
    for ref in ("orbit", "orbit@1"):
        assert registry.resolve(ref) == version
    pulled = registry.pull(version, tmp_path / "out" / "orbit")
    assert {path.relative_to(pulled).as_posix() for path in pulled.rglob("*") if path.is_file()} == set(
        version.files
    )
    for name in version.files:
        assert (pulled / name).read_bytes() == (folder / name).read_bytes() == registry.read(version, name)
    assert [path.name for path in pulled.parent.iterdir()] == ["orbit"]


def test_numbers_count_up_and_the_bare_name_is_the_latest(registry, folder):
    for number in range(1, 12):
        (folder / ADAPTER_FILE).write_bytes(b"%d" % number)
        assert registry.publish("orbit", folder, metadata={}).number == number
    assert registry.resolve("orbit").number == 11
    assert [version.number for version in registry.versions("orbit")] == list(range(1, 12))
    assert len({version.adapter_sha256 for version in registry.versions("orbit")}) == 11
    info = registry.concepts()[0]
    assert (info.name, info.versions, info.latest) == ("orbit", 11, 11)


def test_an_appearance_alone_is_a_whole_version(registry, folder, tmp_path):
    both = write_folder(tmp_path / "both", b"motion")
    shutil.copytree(folder, both / "spatial")
    assert registry.publish("both", both, metadata={}).adapter_sha256 == sha256_file(both / ADAPTER_FILE)
    (both / ADAPTER_FILE).unlink()
    version = registry.publish("look", both, metadata={})
    assert version.adapter_sha256 == sha256_file(folder / ADAPTER_FILE)
    assert registry.resolve("look") == version
    pulled = registry.pull(version, tmp_path / "pulled")
    assert (pulled / SPATIAL_FILE).read_bytes() == (folder / ADAPTER_FILE).read_bytes()
    (both / SPATIAL_FILE).unlink()
    with pytest.raises(InvalidInput, match=f"holds no {ADAPTER_FILE} and no {SPATIAL_FILE}"):
        registry.publish("look", both, metadata={})


def test_the_same_file_is_stored_once(registry, folder):
    for concept in ("one", "two"):
        registry.publish(concept, folder, metadata={})
    assert len(list(registry.storage.list("objects/"))) == 3


def test_eight_threads_publishing_at_once_get_eight_numbers(registry, tmp_path):
    folders = [write_folder(tmp_path / f"f{n}", b"weights %d" % n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda folder: registry.publish("race", folder, metadata={}), folders))
    assert sorted(version.number for version in versions) == list(range(1, 9))
    assert {version.adapter_sha256 for version in registry.versions("race")} == {
        v.adapter_sha256 for v in versions
    }
    for version, folder in zip(versions, folders, strict=True):
        assert (
            registry.read(registry.resolve(version.ref), ADAPTER_FILE) == (folder / ADAPTER_FILE).read_bytes()
        )


def publish_many(uri, folder, start, count):
    start.wait()
    for _ in range(count):
        open_registry(uri).publish("race", folder, metadata={"by": str(folder)})


def test_processes_publishing_at_once_lose_nothing(registry, tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    folders = [write_folder(tmp_path / f"f{n}", b"weights %d" % n) for n in range(3)]
    processes = [
        context.Process(target=publish_many, args=(registry.uri, folder, start, 5)) for folder in folders
    ]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    versions = registry.versions("race")
    assert [version.number for version in versions] == list(range(1, 16))
    for folder in folders:
        assert sum(version.metadata["by"] == str(folder) for version in versions) == 5


def test_a_lost_answer_does_not_publish_twice(registry, folder, monkeypatch):
    original = type(registry.storage).put_if_absent

    def put_and_lose_the_answer(self, key, data):
        assert original(self, key, data)
        return original(self, key, data)  # what boto3 does when the first answer never came

    monkeypatch.setattr(type(registry.storage), "put_if_absent", put_and_lose_the_answer)
    assert registry.publish("orbit", folder, metadata={}).number == 1
    assert [version.number for version in registry.versions("orbit")] == [1]


def test_metrics_are_added_and_the_version_stays(registry, folder):
    version = registry.publish("orbit", folder, metadata={}, metrics={"loss": 0.5})
    key = "concepts/orbit/versions/1.json"
    before = registry.storage.get(key)
    registry.add_metrics(version, {"fidelity": 0.8})
    registry.add_metrics(version, {"fidelity": 0.9})
    assert registry.resolve("orbit").metrics == {"loss": 0.5, "fidelity": 0.9}
    assert registry.storage.get(key) == before


def test_a_removed_number_is_never_given_again(registry, folder):
    for _ in range(3):
        registry.publish("orbit", folder, metadata={})
    registry.remove("orbit")  # the latest
    assert registry.resolve("orbit").number == 2
    with pytest.raises(NotFound, match="orbit@3 was removed"):
        registry.resolve("orbit@3")
    assert registry.publish("orbit", folder, metadata={}).number == 4
    for number in (1, 2, 4):
        registry.remove(f"orbit@{number}")
    assert registry.concepts() == []
    assert registry.versions("orbit") == []
    with pytest.raises(UserError, match="orbit is not in the registry"):
        registry.resolve("orbit")


def test_an_unknown_concept_is_404_and_near_names_are_told(registry, folder):
    registry.publish("car-turn", folder, metadata={})
    with pytest.raises(UserError, match="did you mean car-turn") as caught:
        registry.resolve("car-trun")
    assert (type(caught.value), caught.value.code) == (NotFound, "concept_not_found")
    with pytest.raises(UserError, match=r"was never published in .*; available: car-turn@1") as caught:
        registry.resolve("car-turn@7")
    assert (type(caught.value), caught.value.code) == (NotFound, "version_not_found")


@pytest.mark.parametrize(
    "ref", ["car@", "car@0", "car@-1", "car@1.5", "car@x", "car@1@2", "car@١", "car@" + "9" * 50]
)
def test_a_bad_version_number_is_refused(registry, ref):
    with pytest.raises(UserError) as caught:
        registry.resolve(ref)
    assert (type(caught.value), caught.value.code) == (InvalidInput, "invalid_version")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../b",
        "a/b",
        "/etc/passwd",
        "a b",
        " a",
        "a ",
        "a\n",
        "",
        ".",
        "..",
        "a..b",
        ".hidden",
        "-rf",
        "Car",
        "ｃａｒ",
        "сar",
        "car\u202eflip",
        "car\u200b",
        "café",
        "a\0b",
        "a\\b",
        "a@b",
        "ª",
        "٣",
        "a" * 65,
        "a" * 10_000,
    ],
)
def test_a_bad_concept_name_is_refused_and_leaves_nothing(storage, folder, name):
    registry = Registry(storage)
    for call in (
        lambda: check_concept_name(name),
        lambda: registry.publish(name, folder, metadata={}),
        lambda: registry.versions(name),
        lambda: registry.resolve(name.replace("@", "/")),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert (type(caught.value), caught.value.code) == (InvalidInput, "invalid_concept")
        assert len(caught.value.message) < 300
        assert caught.value.message.isascii()
    assert list(storage.list()) == []


@pytest.mark.parametrize("name", ["a", "0", "car-turn", "a.b_c-d", "a" * 64])
def test_a_good_concept_name_is_taken(name):
    assert check_concept_name(name) == name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes"])
def test_metadata_that_json_cannot_say_is_refused_and_leaves_nothing(registry, folder, value):
    for given in ({"metadata": {"x": value}}, {"metadata": {}, "metrics": {"x": value}}):
        with pytest.raises(UserError) as caught:
            registry.publish("orbit", folder, **given)
        assert caught.value.code == "invalid_metadata"
    assert list(registry.storage.list()) == []


def test_a_folder_without_adapter_is_refused_and_leaves_nothing(registry, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(UserError) as caught:
            registry.publish("orbit", folder, metadata={})
        assert caught.value.code == "adapter_missing"
    assert list(registry.storage.list()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"X" + data[1:], lambda data: b""])
def test_a_damaged_object_is_noticed_and_nothing_is_left(registry, folder, tmp_path, damage):
    version = registry.publish("orbit", folder, metadata={})
    key = object_key(version.adapter_sha256)
    registry.storage.put(key, damage(registry.storage.get(key)))
    with pytest.raises(UserError, match="damaged"):
        registry.pull(version, tmp_path / "out" / "orbit")
    with pytest.raises(UserError, match="damaged"):
        registry.read(version, ADAPTER_FILE)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cut_object_is_repaired_by_publishing_again(registry, folder, tmp_path):
    version = registry.publish("orbit", folder, metadata={})
    registry.storage.put(object_key(version.adapter_sha256), b"cut")
    again = registry.publish("orbit", folder, metadata={})
    registry.pull(again, tmp_path / "out")
    registry.pull(version, tmp_path / "first")


def test_pull_keeps_what_is_there(registry, folder, tmp_path):
    version = registry.publish("orbit", folder, metadata={})
    target = tmp_path / "target"
    target.mkdir()  # an empty folder is taken
    registry.pull(version, target)
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert registry.pull(version, target) == target  # the same again: nothing happens
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == times
    (target / ADAPTER_FILE).write_bytes(b"mine")
    with pytest.raises(Conflict, match="exists and does not hold orbit@1"):
        registry.pull(version, target)
    assert (target / ADAPTER_FILE).read_bytes() == b"mine"


def test_pulls_at_once_into_one_folder_all_succeed(registry, folder, tmp_path):
    version = registry.publish("orbit", folder, metadata={})
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: registry.pull(version, tmp_path / "out" / "orbit"), range(6)))
    assert set(results) == {tmp_path / "out" / "orbit"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["orbit"]


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"{}", b"\xff\xfe", b'{"files": 3}'])
def test_a_damaged_pointer_is_one_sentence_and_can_be_removed(registry, folder, content):
    registry.publish("orbit", folder, metadata={})
    registry.publish("orbit", folder, metadata={})
    registry.storage.put("concepts/orbit/versions/2.json", content)
    with pytest.raises(UserError, match="concepts rm orbit@2") as caught:
        registry.resolve("orbit")
    assert (type(caught.value), caught.value.code) == (DamagedData, "object_damaged")
    assert registry.resolve("orbit@1").number == 1
    registry.remove("orbit@2")
    assert registry.resolve("orbit").number == 1


def test_notes_among_the_pointers_do_no_harm(registry, folder):
    registry.publish("orbit", folder, metadata={})
    for key in ("versions/README.md", "versions/0.json", "versions/x.json", "removed/note", "notes.txt"):
        registry.storage.put(f"concepts/orbit/{key}", b"a note")
    assert registry.concepts()[0].versions == 1
    assert registry.publish("orbit", folder, metadata={}).number == 2


HOSTILE_POINTERS = {
    "hash is a path": lambda p: p["files"][ADAPTER_FILE].update(sha256="../../home/adapter"),
    "hash is cut": lambda p: p["files"][ADAPTER_FILE].update(sha256="ab12"),
    "hash with a line break": lambda p: p["files"][ADAPTER_FILE].update(sha256="a" * 64 + "\n"),
    "hash in capitals": lambda p: p["files"][ADAPTER_FILE].update(sha256="A" * 64),
    "hash is a number": lambda p: p["files"][ADAPTER_FILE].update(sha256=7),
    "size below zero": lambda p: p["files"][ADAPTER_FILE].update(size=-1),
    "size is a text": lambda p: p["files"][ADAPTER_FILE].update(size="12"),
    "file leaves the folder": lambda p: p["files"].update({"../../evil": p["files"][ADAPTER_FILE]}),
    "file is absolute": lambda p: p["files"].update({"/etc/evil": p["files"][ADAPTER_FILE]}),
    "no adapter": lambda p: p["files"].pop(ADAPTER_FILE),
    "files are a list": lambda p: p.update(files=[]),
    "another concept": lambda p: p.update(concept="swing"),
    "concept is a path": lambda p: p.update(concept="../orbit"),
    "another number": lambda p: p.update(number=2),
    "number is a text": lambda p: p.update(number="1"),
    "metadata are a list": lambda p: p.update(metadata=[]),
    "no time": lambda p: p.update(created_at="yesterday"),
}


@pytest.mark.parametrize("change", HOSTILE_POINTERS.values(), ids=HOSTILE_POINTERS.keys())
def test_a_pointer_that_no_publication_wrote_is_refused_as_it_is_read(tmp_path, folder, change):
    registry = open_registry(tmp_path / "registry")
    registry.publish("orbit", folder, metadata={})
    key = "concepts/orbit/versions/1.json"
    pointer = json.loads(registry.storage.get(key))
    change(pointer)
    registry.storage.put(key, json.dumps(pointer).encode())
    for read in (lambda: registry.resolve("orbit"), lambda: registry.versions("orbit")):
        with pytest.raises(UserError, match=r"versions/1\.json in .* is damaged \(") as caught:
            read()
        assert (type(caught.value), caught.value.code) == (DamagedData, "object_damaged")
        assert len(caught.value.message) < 500
    assert registry.publish("orbit", folder, metadata={}, once="job").number == 2  # it holds up nobody


@pytest.mark.parametrize("metrics", [b"[]", b"{", b'"x"'])
def test_added_metrics_that_are_none_are_refused_as_they_are_read(tmp_path, folder, metrics):
    registry = open_registry(tmp_path / "registry")
    version = registry.publish("orbit", folder, metadata={})
    registry.add_metrics(version, {"motion": 0.5})
    (info,) = registry.storage.list("concepts/orbit/metrics/1/")
    registry.storage.put(info.key, metrics)
    with pytest.raises(UserError) as caught:
        registry.resolve("orbit")
    assert (caught.value.code, info.key in caught.value.message) == ("object_damaged", True)


@pytest.mark.parametrize("sha256", ["../../x", "", "0" * 63, "0" * 65, "g" * 64, "../" * 21 + "x"])
def test_only_a_hash_names_an_object(storage, tmp_path, sha256):
    calls = (
        lambda: object_key(sha256),
        lambda: get_object(storage, sha256),
        lambda: get_files(storage, {"a": {"sha256": sha256, "size": 1}}, tmp_path / "out"),
    )
    for call in calls:
        with pytest.raises(UserError) as caught:
            call()
        assert (type(caught.value), caught.value.code) == (DamagedData, "object_damaged")
    assert not (tmp_path / "out").exists()


def test_stored_files_with_a_name_that_leaves_the_folder_are_not_written(storage, tmp_path):
    files = put_files(storage, make_files(tmp_path / "in"))
    with pytest.raises(UserError) as caught:
        get_files(storage, files | {"../evil": next(iter(files.values()))}, tmp_path / "out")
    assert caught.value.code == "object_damaged"
    assert not (tmp_path / "out").exists()
    get_files(storage, files, tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "a").read_bytes() == b"a"


def make_files(folder):
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_bytes(b"a")
    return folder


def test_an_empty_registry_is_empty(tmp_path):
    registry = open_registry(tmp_path / "nowhere")
    assert registry.concepts() == []
    assert registry.versions("orbit") == []
    assert not (tmp_path / "nowhere").exists()
    assert open_storage(registry.uri) == registry.storage


def test_a_publication_with_a_name_happens_once(storage, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"one")

    def publish(once):
        return Registry(storage).publish("orbit", folder, metadata={}, once=once).number

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(publish, ["a", "b", "a", "b", "a", "b"]))
    assert set(numbers) == {1, 2}
    assert numbers[0::2] == [numbers[0]] * 3
    assert numbers[1::2] == [numbers[1]] * 3
    assert publish("a") == numbers[0]
    assert publish(None) == 3
    assert publish("c") == 4
