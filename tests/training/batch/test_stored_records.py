"""Runs and batches that were changed by hand, or by whoever may write to the storage: one sentence, and nothing deleted."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import DamagedData, UserError
from infra.registry import open_registry
from infra.storage import open_storage
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.batch.watch.logs import Reader
from training.batch.watch.validation import validations
from training.config import make_config
from training.loop.checkpoint import STATE, MemberState
from training.runs.record import CONFIG, RECORD, RESULT, RunIdentity, finished

CONFIG_OF_A = make_config({"frames": 4, "height": 32, "width": 32, "steps": 10})
A = Work("a", "a", "/clips", "d" * 64, 1, None, "f" * 64, CONFIG_OF_A)


@pytest.fixture
def state(tmp_path):
    state = BatchState(open_storage(tmp_path / "batch"))
    state.create({})
    state.add([A])
    return state


def change(storage, key, **values):
    told = json.loads(storage.get(key))
    storage.put(key, json.dumps({**told, **values}).encode())


def refused(call, where):
    with pytest.raises(UserError, match=" is damaged ") as caught:
        call()
    assert (type(caught.value), caught.value.code) == (DamagedData, "object_damaged")
    assert where in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    "values",
    [
        {"name": "b"},
        {"name": "../a"},
        {"sha256": "x"},
        {"version": "../a@1"},
        {"version": "a"},
        {"status": "begun"},
        {"step": -1},
        {"step": "3"},
        {"lease": {"owner": "x"}},
        {"history": [["yesterday", "queued", ""]]},
        {"work": {}},
        {"work": {**A.asdict(), "name": "../../a"}},
        {"work": {**A.asdict(), "data_sha256": "../x"}},
        {"checkpoint": "concepts/a.json"},  # lanes delete the checkpoint before the last one
        {"checkpoint": "checkpoints/b/0000003-0123456789abcdef.safetensors"},
        {"checkpoint": "checkpoints/a/../../b/0000003-0123456789abcdef.safetensors"},
        {"unknown": 1},
    ],
)
def test_a_record_that_no_lane_wrote_is_refused(state, values):
    change(state.storage, "concepts/a.json", **values)
    refused(state.records, "concepts/a.json")
    refused(lambda: state.record("a"), "concepts/a.json")
    refused(lambda: BatchState(state.storage).claim("lane"), "concepts/a.json")


def test_a_record_is_what_was_written(state):
    claim = state.claim("lane")
    state.checkpointed(claim, 3, "checkpoints/a/0000003-0123456789abcdef.safetensors")
    record = state.publish(claim, "a@1", step=10, loss=float("nan"))
    assert repr(state.record("a")) == repr(record)  # NaN is not itself


def test_a_file_that_is_no_concepts_name_is_no_record(state):
    state.storage.put("concepts/a..b.json", b"{}")
    state.storage.put("concepts/notes/x.json", b"{}")
    assert [record.name for record in state.records()] == ["a"]


@pytest.mark.parametrize("body", [b"[]", b"{}", b"{", b'{"id": "../x", "created": 1.0}'])
def test_a_batch_that_nobody_began_is_refused(state, body):
    state.storage.put("batch.json", body)
    refused(state.about, "batch.json")


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"{}", b'{"owner": "o", "token": "t", "expires": "soon", "result": null}']
)
def test_a_turn_that_nobody_took_is_refused(state, body):
    tasks = LeasedTasks(state.storage.sub("tasks"), "me")
    tasks.storage.put("x.json", body)
    refused(lambda: tasks.take("x"), "x.json")
    refused(lambda: tasks.get("x"), "x.json")


@pytest.mark.parametrize("result", [{}, {"version": "../a", "scores": {}, "error": None, "seconds": 1.0}, {"version": "a@1", "scores": {"x": "y"}, "error": None}])  # fmt: skip
def test_a_validation_that_found_something_else_is_refused(state, result):
    state.publish(state.claim("lane"), "a@1", step=10)
    tasks = LeasedTasks(state.storage.sub("validations"), "me")
    assert tasks.take("a-1")
    tasks.done("a-1", result)
    refused(lambda: validations(state, state.records()), "validations/a-1.json")


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"time": 1.0, "lane": "x"}', b'{"time": "x", "lane": "", "text": ""}']
)
def test_a_line_that_no_journal_wrote_is_refused(state, line):
    state.storage.put("logs/lanes/x/1.jsonl", b'{"time": 1.0, "lane": "x", "text": "y"}\n' + line + b"\n")
    refused(lambda: Reader(state.storage).new("lanes"), "logs/lanes/x/1.jsonl")


# --- a run ------------------------------------------------------------------------------------------------------

FACTS = {"concept": "a", "foundation_fingerprint": "f" * 64, "data_sha256": "d" * 64}


@pytest.fixture
def run(tmp_path):
    """A run's folder as `train` begins it, and its identity."""
    storage = open_storage(tmp_path / "run")
    identity = RunIdentity({**CONFIG_OF_A.model_dump(mode="json"), "concept": "a"}, FACTS)
    identity.put(storage)
    return SimpleNamespace(storage=storage, identity=identity)


def test_a_run_goes_on_with_what_it_wrote(run):
    run.identity.check(run.storage)
    assert run.identity.put(run.storage) == run.identity.put(run.storage)


@pytest.mark.parametrize("values", [{"id": "../x"}, {"id": None}, {"data_sha256": 3}, {"concept": "../a"}])
def test_a_run_that_no_training_began_is_refused(run, values):
    change(run.storage, RECORD, **values)
    refused(lambda: run.identity.check(run.storage), RECORD)
    refused(lambda: run.identity.put(run.storage), RECORD)


@pytest.mark.parametrize("body", [b"[]", b"{", b"2023-99-99", b"\xff", b"[" * 2000])
def test_settings_that_no_training_wrote_are_refused(run, body):
    run.storage.put(CONFIG, body)
    refused(lambda: run.identity.check(run.storage), CONFIG)


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'{"registry": "/r", "version": "../a@1"}', b'{"registry": "/r"}']
)
def test_a_result_that_no_training_wrote_is_refused(run, tmp_path, body):
    run.storage.put(RESULT, body)
    refused(lambda: finished(run.storage, open_registry(tmp_path / "registry")), RESULT)


@pytest.mark.parametrize("said", [None, "[]", "{}", '{"step": -1, "workers": 1, "zero": 0}', '{"step": 1, "workers": 1, "zero": 7}'])  # fmt: skip
def test_a_checkpoint_without_its_position_is_refused(tmp_path, said):
    save_file({"x": torch.zeros(1)}, tmp_path / STATE, metadata=None if said is None else {"position": said})
    refused(lambda: MemberState.read(tmp_path), STATE)


@pytest.mark.parametrize("position", ["[]", "{}", '{"step": -1}', '{"step": "1"}'])
def test_a_members_state_without_its_step_is_refused(position):
    whole = MemberState(3, {"x": torch.zeros(1)}).encode()
    assert MemberState.decode(whole).step == 3
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["position"] = position
    changed = json.dumps(header).encode()
    with pytest.raises(ValueError):
        MemberState.decode(len(changed).to_bytes(8, "little") + changed + whole[8 + length :])
