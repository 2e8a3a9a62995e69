"""Pointers and rows that this program did not write: no file is deleted for them, no other key read, and nothing stands still."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine
from pydantic import ValidationError
from serving_helpers import sha, use, video_request
from sqlalchemy import text
from test_dispatcher import WHOLE, House, ScriptedEngine

from infra.errors import DamagedData, UserError
from infra.registry import ADAPTER_FILE
from serving.config import ServeConfig
from serving.http.answers import video_of
from serving.http.service import VideoService
from serving.jobs.backlog import waiting_work
from serving.jobs.database import Pin
from serving.jobs.dispatcher import result_key
from serving.jobs.pins import PinStore
from serving.requests import AdapterUsed, cost_of, request_of, resolve_adapters
from serving.schemas import LoraUse

REQUEST = video_request(adapters=(use("orbit"),)).model_dump(mode="json")


def with_adapter(**values) -> dict:
    """A request whose adapter was changed."""
    return {**REQUEST, "adapters": [{**REQUEST["adapters"][0], **values}]}


HOSTILE = {
    "hash is a path": with_adapter(sha256="../../../home/other"),
    "hash is cut": with_adapter(sha256="ab"),
    "concept is a path": with_adapter(concept="../orbit"),
    "version 0": with_adapter(version=0),
    "no prompt": {name: value for name, value in REQUEST.items() if name != "prompt"},
    "nothing": {},
}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_pointer_whose_hash_is_a_path_makes_no_engine_delete_a_file(unet3d, registry, publish, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not the engine's")
    version = publish(unet3d, "orbit", seed=1)
    key = f"concepts/orbit/versions/{version.number}.json"
    pointer = json.loads(registry.storage.get(key))
    path = f"../{other.relative_to(tmp_path).with_suffix('')}"
    pointer["files"][ADAPTER_FILE]["sha256"] = path
    registry.storage.put(key, json.dumps(pointer).encode())
    with pytest.raises(UserError) as caught:
        resolve_adapters(LoraUse(name="orbit"), INFO, registry)
    assert (type(caught.value), caught.value.code) == (DamagedData, "object_damaged")
    with pytest.raises(ValidationError):
        AdapterUsed(concept="orbit", version=1, path="temporal", scale=1.0, sha256=path)
    assert other.read_bytes() == b"not the engine's"


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_job_that_nobody_asked_for_fails_and_others_are_made(house: House, request_: dict):
    bad = house.store.add(request_, model="foundation").id
    [good] = house.add()
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: not {"queued", "in_progress"} & set(house.store.count()))
    assert engine.runs == [good]
    job = house.store.get(bad)
    assert (job.state, job.error_code) == ("failed", "job_damaged")
    assert "delete the video and request it again" in (job.error_message or "")


def test_a_damaged_job_does_not_hide_the_work_of_others(house: House):
    house.store.add(HOSTILE["nothing"], model="foundation")
    assert waiting_work(house.store) == 0.0
    house.add(2)
    assert waiting_work(house.store) == 2 * cost_of(video_request())


def test_a_damaged_job_is_said_and_can_be_deleted(tmp_path: Path):
    async def main() -> None:
        service = VideoService(ServeConfig(data_dir=str(tmp_path)), FakeEngine())
        job = service.store.add(HOSTILE["hash is a path"], model="foundation", tenant="t")
        with pytest.raises(UserError) as caught:
            await service.videos([job])
        assert type(caught.value) is DamagedData
        assert (caught.value.code, job.id in caught.value.message) == ("job_damaged", True)
        await service.delete(job.id, "t")
        assert service.store.count() == {}
        service.store.close()

    asyncio.run(main())


def test_a_rows_key_reads_no_other_object(tmp_path: Path):
    """The results' folder is the database's as well."""

    async def main() -> None:
        service = VideoService(ServeConfig(data_dir=str(tmp_path)), FakeEngine())
        job = service.store.add(REQUEST, model="foundation", tenant="t")
        service.store.start(job.id)
        service.store.complete(job.id, key="jobs.sqlite", sha256="0" * 64, size=3, timings={}, expires_at=9e9)
        with pytest.raises(UserError) as caught:
            await service.content(job.id, "t")
        assert caught.value.code == "video_expired"
        service.store.close()

    asyncio.run(main())


def test_a_row_with_another_id_holds_up_no_sweep(house: House):
    house.results.put("other.mp4", b"not a result")
    for id in [*house.add(2)]:
        house.store.start(id)
        house.store.complete(id, key=result_key(id), sha256="0" * 64, size=3, timings={}, expires_at=1.0)
    with house.store.database.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET id = '../other' WHERE number = 1"))
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: house.store.expired(9e9) == [])
    assert house.results.get("other.mp4") == b"not a result"
    with pytest.raises(UserError):
        result_key("../other")


@pytest.mark.parametrize(
    "values", [{"sha256": "../../other"}, {"concept": "../x"}, {"path": "both"}, {"version": 0}]
)
def test_a_pin_that_nobody_asked_for_is_left_out_and_the_others_hold(house: House, values: dict, caplog):
    pins = PinStore(house.store.database)
    pins.pin(INFO.fingerprint, [use("orbit")], {"temporal": 4})
    told = {"path": "temporal", "sha256": sha("x", "temporal"), "concept": "x", "version": 1, **values}
    with house.store.database.sessions.begin() as session:
        session.add(Pin(foundation=INFO.fingerprint, pinned=True, revision=2, **told))
    assert pins.wanted(INFO.fingerprint) == (2, [use("orbit")])
    assert "pin revision 2 is damaged" in caplog.text


def test_a_job_stored_before_adapters_had_step_windows_is_read_as_it_was(tmp_path: Path):
    """And one without a window is stored in the same words."""
    before = {
        "prompt": "a bear",
        "negative_prompt": "",
        "frames": 4,
        "height": 32,
        "width": 32,
        "fps": 8,
        "seed": 1,
        "steps": 2,
        "guidance_scale": 1.0,
        "scheduler": None,
        "adapters": [
            {
                "concept": "orbit",
                "version": 1,
                "path": "temporal",
                "scale": 0.5,
                "sha256": sha("orbit", "temporal"),
            }
        ],
        "foundation": None,
        "tenant": "t",
        "priority": 0,
        "deadline": None,
        "warnings": [],
    }
    store = House(tmp_path).store
    job = store.get(store.add(before, model="foundation:orbit@1", tenant="t").id)
    request = request_of(job)
    assert request == video_request(adapters=(use("orbit", scale=0.5),), tenant="t")
    assert request.adapters[0].steps is None  # all the steps
    assert request.adapters[0].region is None
    assert request.model_dump(mode="json") == before
    assert video_of(job, None).model_dump(mode="json")["adapters"] == before["adapters"]

    windowed = {**before, "adapters": [{**before["adapters"][0], "until": 0.5}]}
    later = request_of(store.get(store.add(windowed, model="foundation:orbit@1").id))
    assert later.adapters == (use("orbit", scale=0.5, until=0.5),)
    assert later.adapters == (use("orbit", scale=0.5, steps=(0, 0.5)),)
    assert later.model_dump(mode="json")["adapters"] == [{**before["adapters"][0], "steps": [0.0, 0.5]}]
