"""Trainings from the files to the end, whoever dies, cancels or does it twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update
from trainers import FakeTrainer

from infra.errors import Conflict, NotFound, Throttled
from infra.storage import Storage, open_storage
from serving.files.store import FileLimits, FileStore
from serving.jobs.admission import IdempotencyKey
from serving.jobs.database import Database, Delivery
from serving.jobs.tenant_tables import Usage
from serving.jobs.training_tables import Training
from serving.trainings.desk import Desk
from serving.trainings.request import TrainingRequest
from serving.trainings.store import TrainingStore
from serving.trainings.trainer import Standing


class Office:
    """A database with files and trainings, a trainer, and desks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder / 'jobs.sqlite'}")
        self.results: Storage = open_storage(folder / "results")
        self.files = FileStore(self.database, self.results, FileLimits(1 << 20, 1 << 20, 100))
        self.store = TrainingStore(self.database, most=3)
        self.trainer = FakeTrainer()
        self.desk = self.another_desk()

    def another_desk(self) -> Desk:
        place = self.folder / "validations"
        return Desk(self.store, self.files, self.trainer, self.results, place)

    def file(self, content: bytes, name: str = "a.mp4", tenant: str = "alice") -> str:
        path = self.folder / "upload"
        path.write_bytes(content)
        id = self.files.reserve(tenant, len(content)).id
        return self.files.keep(id, path, filename=name, purpose="fine-tune", expires_at=None).id

    def ask(
        self, file: str, suffix: str = "orbit", tenant: str = "alice", key: str | None = None
    ) -> Training:
        request = TrainingRequest(training_file=file, suffix=suffix, seed=1, method="motion", settings={})
        return self.store.admit(
            request,
            tenant=tenant,
            concept=f"{tenant}.{suffix}",
            foundation="f" * 64,
            idempotency=IdempotencyKey.of(key, {"file": file}),
            webhook_url=f"https://{tenant}.example/hook",
        )[0]

    def validate(self) -> None:
        claimed = self.store.claim(self.desk.name)
        assert claimed is not None
        self.desk.validate(claimed)

    def state(self, training: Training) -> str:
        return self.store.get(training.id).state

    def said(self, training: Training) -> list[str]:
        return [one.message for one in self.store.events(training.id, newest=False, limit=99)[0]]

    def clips(self) -> list[str]:
        return [info.key for info in self.results.list("trainings/")]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.database.close()


def test_a_training_goes_from_its_file_to_its_version_and_leaves_no_clip(office: Office):
    training = office.ask(office.file(b"video"))
    assert office.state(training) == "validating_files"
    office.validate()
    assert [clip.name for clip in office.trainer.prepared[0][1]] == ["a.mp4"]
    assert office.state(training) == "queued"
    (clip,) = office.clips()
    assert clip.startswith(f"trainings/{training.id}/")
    office.desk.look()
    office.desk.look()
    assert office.trainer.entered == [("alice.orbit", 0)]
    for standing in (Standing("running"), Standing("running", 4, 0.5, 1.0), Standing("running", 4, 0.5, 1.0)):
        office.trainer.now["alice.orbit"] = standing
        for desk in (office.desk, office.another_desk()):
            desk.look()
    office.trainer.now["alice.orbit"] = Standing("published", 10, 0.25, version="alice.orbit@1")
    for _ in range(3):
        office.desk.look()
    ended = office.store.get(training.id)
    assert (ended.state, ended.version, ended.step, ended.loss) == ("succeeded", "alice.orbit@1", 10, 0.25)
    assert [said.split(":")[0].split(";")[0] for said in office.said(training)] == [
        f"Created training {training.id}",
        "The files were accepted",
        "a remark",
        "The training has begun.",
        "Step 4/10",
        "The training has succeeded",
    ]
    assert (ended.settled, office.clips(), office.trainer.withdrawn) == (True, [], [])
    with office.database.sessions() as session:
        (call,) = session.scalars(select(Delivery))
        (used,) = session.scalars(select(Usage))
    assert (call.tenant, call.url) == ("alice", "https://alice.example/hook")
    assert (used.kind, used.steps, used.tenant, used.device_seconds) == ("training", 10, "alice", 10.0)
    told = json.loads(call.body)
    assert (told["type"], told["data"]["id"]) == ("fine_tuning.job.succeeded", training.id)


def test_a_list_of_files_names_the_row_that_is_wrong(office: Office):
    good, bad, foreign = office.file(b"video"), office.file(b"refused"), office.file(b"video", tenant="bob")
    rows = {
        "not a readable video": {"file_id": bad, "caption": "x"},
        f"there is no file {foreign!r}": {"file_id": foreign, "caption": "x"},
        "file_id: Field required": {"caption": "x"},
        "colour: Extra inputs are not permitted": {"file_id": good, "colour": 1},
        "start: Input should be greater than or equal to 0": {"file_id": good, "start": -1},
    }
    for number, (problem, row) in enumerate(rows.items()):
        lines = "\n".join(json.dumps(one) for one in ({"file_id": good, "caption": "a", "start": 1}, row))
        training = office.ask(office.file(lines.encode(), "rows.jsonl"), suffix=f"s{number}")
        office.validate()
        ended = office.store.get(training.id)
        assert ended.state == "failed"
        assert ended.error_message.startswith("rows.jsonl, row 2")
        assert problem in ended.error_message
        assert ended.error_param == "training_file"
        office.desk.look()
    assert office.clips() == []
    _, clips = office.trainer.prepared[0]
    assert (clips[0].name, clips[0].caption, clips[0].start) == ("rows.jsonl, row 1 (a.mp4)", "a", 1)
    not_json = office.ask(office.file(b"{", "rows.jsonl"))
    office.validate()
    assert "rows.jsonl, row 1" in (office.store.get(not_json.id).error_message or "")


def test_a_file_that_was_deleted_meanwhile_fails_the_training(office: Office):
    id = office.file(b"video")
    training = office.ask(id)
    office.files.remove(id)
    office.validate()
    ended = office.store.get(training.id)
    assert (ended.state, ended.error_code, ended.error_param) == ("failed", "file_not_found", "training_file")


def test_a_validation_whose_ingress_died_is_done_by_another(office: Office):
    training = office.ask(office.file(b"video"))
    assert office.store.claim("one-that-dies") is not None
    assert office.store.claim(office.desk.name) is None
    with office.database.sessions.begin() as session:
        session.execute(update(Training).values(lease_until=0.0))
    office.validate()
    assert office.state(training) == "queued"


def test_a_validation_that_stalled_does_not_touch_what_another_made(office: Office):
    training = office.ask(office.file(b"video"))
    stalled = office.store.claim("one-that-stalls")
    assert stalled is not None

    def meanwhile() -> None:
        office.trainer.during = lambda: None
        with office.database.sessions.begin() as session:
            session.execute(update(Training).values(lease_until=0.0))
        office.validate()

    office.trainer.during = meanwhile
    office.another_desk().validate(stalled)
    assert office.state(training) == "queued"
    assert len(office.clips()) == 1
    work = office.store.get(training.id).work
    assert work is not None
    assert office.clips()[0].split("/")[2] in work["data"]


def test_who_is_cancelled_while_validated_leaves_nothing(office: Office):
    training = office.ask(office.file(b"video"))
    office.trainer.during = lambda: (office.store.cancel(training.id, "alice"), office.desk.look(), None)[2]
    office.validate()
    assert office.state(training) == "cancelled"
    assert office.clips() == []
    office.desk.look()
    assert office.store.get(training.id).settled
    assert office.trainer.entered == []


@pytest.mark.parametrize("standing", [Standing("queued"), Standing("running", 3)])
def test_who_is_cancelled_while_it_waits_or_trains_is_stopped_and_then_cleaned_up(
    office: Office, standing: Standing
):
    training = office.ask(office.file(b"video"))
    office.validate()
    office.desk.look()
    office.trainer.now["alice.orbit"] = standing
    office.store.cancel(training.id, "alice")
    with pytest.raises(Conflict, match="still being stopped"):
        office.ask(office.file(b"video"))
    office.desk.look()  # tells the trainer; the clips stay until it has let go
    assert office.clips()
    office.desk.look()
    assert office.clips() == []
    assert office.state(training) == "cancelled"
    again = office.ask(office.file(b"video"))
    assert again.id != training.id


def test_a_version_that_was_published_in_the_moment_of_its_cancellation_is_withdrawn(office: Office):
    training = office.ask(office.file(b"video"))
    office.validate()
    office.desk.look()
    office.store.cancel(training.id, "alice")
    office.trainer.now["alice.orbit"] = Standing("published", 10, version="alice.orbit@1")
    office.desk.look()
    assert office.trainer.withdrawn == ["alice.orbit@1"]
    assert office.store.get(training.id).version is None


def test_a_training_is_paused_and_goes_on(office: Office):
    training = office.ask(office.file(b"video"))
    with pytest.raises(Conflict, match="is validating_files; only queued and running"):
        office.store.pause(training.id, "alice")
    office.validate()
    office.desk.look()
    office.trainer.now["alice.orbit"] = Standing("running", 4, 0.5, 1.0)
    office.desk.look()
    began = office.store.get(training.id).started_at
    assert office.store.pause(training.id, "alice").state == "paused"
    office.store.pause(training.id, "alice")
    office.desk.look()
    assert office.trainer.now["alice.orbit"].state == "paused"
    office.trainer.now["alice.orbit"] = Standing("paused", 5, 0.5, 1.0)  # its lane did one step more
    office.desk.look()
    assert (office.state(training), office.store.get(training.id).step) == ("paused", 5)
    assert office.store.resume(training.id, "alice").state == "queued"
    office.desk.look()
    assert office.trainer.now["alice.orbit"].state == "queued"
    office.trainer.now["alice.orbit"] = Standing("running", 6, 0.5, 1.0)
    office.desk.look()
    again = office.store.get(training.id)
    assert (again.state, again.started_at) == ("running", began)
    assert [said for said in office.said(training) if "Step" not in said][3:] == [
        "The training has begun.",
        "The training was paused.",
        "The training was resumed; it goes on when it is its turn.",
        "The training goes on.",
    ]
    office.store.pause(training.id, "alice")
    office.store.cancel(training.id, "alice")
    for _ in range(2):
        office.desk.look()
    assert (office.trainer.now["alice.orbit"].state, office.clips()) == ("cancelled", [])
    for wrong in (office.store.pause, office.store.resume):
        with pytest.raises(Conflict, match="cancelled"):
            wrong(training.id, "alice")


def test_what_a_tenant_may_not_do(office: Office):
    file = office.file(b"video")
    first = office.ask(file, key="k")
    assert office.ask(file, key="k").id == first.id
    with pytest.raises(Conflict, match="with another body"):
        office.ask(office.file(b"other"), key="k")
    with pytest.raises(Conflict, match=f"training {first.id} learns 'orbit' and is validating_files"):
        office.ask(file)
    office.ask(file, tenant="bob")  # another tenant's suffix is no obstacle
    for number in (1, 2):
        office.ask(file, suffix=f"s{number}")
    with pytest.raises(Throttled, match="3 unfinished"):
        office.ask(file, suffix="s3")
    for call in (
        lambda: office.store.get(first.id, tenant="bob"),
        lambda: office.store.cancel(first.id, "bob"),
    ):
        with pytest.raises(NotFound, match="there is no training"):
            call()


def test_turns_go_round_the_tenants(office: Office):
    for number in range(3):
        office.ask(office.file(b"video"), suffix=f"s{number}")
    office.ask(office.file(b"video", tenant="bob"), tenant="bob")
    for _ in range(4):
        office.validate()
    office.desk.look()
    assert office.trainer.entered == [("alice.s0", 0), ("alice.s1", -1), ("alice.s2", -2), ("bob.orbit", 0)]


def test_an_upload_that_breaks_off_and_a_file_that_expires_are_swept(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    office.files.reserve("alice", 1 << 19)
    kept = office.file(b"video")
    with pytest.raises(Exception, match="are free"):
        office.files.reserve("alice", 1 << 20)
    assert office.files.sweep() == 0
    monkeypatch.setattr("serving.files.store.time.time", lambda: 4e9)
    assert office.files.sweep() == 1
    office.files.reserve("alice", (1 << 20) - 5)
    assert office.files.get(kept, "alice").size == 5


def test_a_tenants_files_and_trainings_are_erased_once_the_trainer_has_let_go(office: Office):
    ended, waits = office.ask(office.file(b"video")), office.ask(office.file(b"video"), suffix="s1")
    other = office.ask(office.file(b"video", tenant="bob"), tenant="bob")
    for _ in range(3):
        office.validate()
    office.desk.look()
    office.trainer.now["alice.orbit"] = Standing("failed", 1, reason="it diverged")
    office.desk.look()
    office.files.erase("alice")
    assert not office.store.erase("alice")
    for _ in range(3):
        office.desk.look()
    assert office.store.erase("alice")
    for training in (ended, waits):
        with pytest.raises(NotFound):
            office.store.get(training.id)
        assert office.said(training) == []
    left = [info.key for info in office.results.list()]
    assert len(left) == 2  # bob's file and clips
    assert office.state(other) == "queued"
