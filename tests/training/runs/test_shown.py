"""What is only looked at: a lost board, samples that fail and a storage that is away end no training."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from clip_sets import sliding_clips, write_set
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

import training.runs.run
from infra.errors import StorageAway, UserError
from infra.ray.cluster import Cluster
from infra.storage import FolderStorage
from models.foundations.base import Foundation
from training.config import make_config
from training.loop.checkpoint import MemberState
from training.reporting import board as boards
from training.reporting.board import KEPT_EVENTS, KEPT_SAMPLES, Board, start_board, watching
from training.reporting.tensorboard import TensorBoard
from training.runs.inputs import load
from training.runs.job import Job
from training.runs.run import run_job
from training.runs.samples import Rendering


def step(number):
    return {"kind": "step", "step": number}


def sample_of(number):
    return {"kind": "sample", "step": number, "tensors": {}}


def test_the_board_holds_few_samples_and_no_more_steps_than_a_driver_can_miss():
    board = Board()
    for number in range(KEPT_EVENTS + 3):
        board.push(step(number))
        board.push(sample_of(number))
    events, lost = board.take()
    newest = KEPT_EVENTS + 2
    assert [e["step"] for e in events if e["kind"] == "step"] == list(range(3, newest + 1))
    assert [e["step"] for e in events if e["kind"] == "sample"] == list(
        range(newest + 1 - KEPT_SAMPLES, newest + 1)
    )
    assert lost == 2 * (KEPT_EVENTS + 3) - len(events)
    assert board.take() == ([], 0)


def test_the_board_stands_on_the_drivers_node_and_comes_back(monkeypatch):
    asked = {}

    def remote(kind):
        def options(**given):
            asked.update(given)
            return SimpleNamespace(remote=kind)

        return SimpleNamespace(options=options)

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(
        ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "the driver's")
    )
    assert isinstance(start_board(), Board)
    assert asked == {"num_cpus": 0, "label_selector": {"ray.io/node-id": "the driver's"}, "max_restarts": -1}


class Answers:
    """A board whose `take` is answered so, one after the other, then with nothing; a reference is the question's number."""

    def __init__(self, monkeypatch, *answers):
        self.answers, self.asked, self.waited = list(answers), 0, []
        self.over = threading.Event()
        self.take = SimpleNamespace(remote=self.ask)
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(boards, "TAKE_EVERY_S", 0.001)

    def ask(self):
        self.asked += 1
        return self.asked

    def get(self, reference, timeout):
        self.waited.append(reference)
        answer = self.answers.pop(0) if self.answers else ([], 0)
        if not self.answers:
            self.over.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def shown(self, on_event):
        with watching(self, on_event):
            assert self.over.wait(30)


def test_a_board_that_is_away_is_asked_again_and_what_was_lost_is_said(monkeypatch, caplog):
    away = ActorUnavailableError("the board is away", None)
    told = []
    Answers(monkeypatch, ([step(1)], 0), away, away, ([step(2)], 5), away, ([step(3)], 0)).shown(told.append)
    assert told == [step(1), step(2), step(3)]
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in said] == [
        "training progress cannot be received",  # once for two questions
        "5 steps or samples are not shown because the driver fetched them too late",
        "training progress cannot be received",
    ]


def test_an_answer_that_takes_long_is_waited_for_and_has_all_its_events(monkeypatch):
    slow = GetTimeoutError("it takes more than 30 s")
    board, told = Answers(monkeypatch, slow, slow, ([step(1)], 0)), []
    board.shown(told.append)
    assert told == [step(1)]
    assert board.waited[:3] == [1, 1, 1]


def test_a_board_that_is_gone_at_the_end_is_said_and_not_raised(monkeypatch, caplog):
    Answers(monkeypatch, ActorDiedError(), ActorDiedError()).shown(print)
    assert "training progress cannot be received" in caplog.text


def test_an_event_that_cannot_be_shown_is_one_line_and_the_next_is_shown(monkeypatch, caplog):
    told = []

    def show(event):
        if event["step"] == 1:
            raise StorageAway("the storage is away")
        told.append(event)

    Answers(monkeypatch, ([step(1), step(2)], 0)).shown(show)
    assert told == [step(2)]
    assert [r.getMessage() for r in caplog.records] == [
        "the progress of step 1 is not shown: the storage is away"
    ]


class Renderers:
    """Actors that render nothing: `answers` by step, exceptions raised where they are asked for."""

    def __init__(self, monkeypatch, **answers):
        self.answers, self.options, self.made = answers, [], []
        monkeypatch.setattr(ray, "remote", lambda kind: SimpleNamespace(options=self.asked))
        monkeypatch.setattr(ray, "wait", lambda references, num_returns, timeout: (references, []))
        monkeypatch.setattr(ray, "get", self.get)

    def asked(self, **options):
        self.options.append(options)
        return SimpleNamespace(remote=self.make)

    def make(self, *arguments):
        self.made.append(arguments)
        return SimpleNamespace(render=SimpleNamespace(remote=lambda run, number, *_: f"step{number}"))

    def get(self, reference):
        answer = self.answers[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def rendering(tmp_path, unet3d):
    def make(use_gpu=False):
        config = make_config({"frames": 4, "height": 32, "width": 32, "steps": 3})
        task = SimpleNamespace(concept="slide", foundation=None, config=config)
        return Rendering(task, FolderStorage(tmp_path), unet3d, ["a fox"], "run", use_gpu)

    return make


def test_a_sample_that_fails_is_one_line_and_the_others_are_there(monkeypatch, caplog, rendering):
    failed = RayTaskError(
        "render", "Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory", RuntimeError()
    )
    renderers = Renderers(monkeypatch, step1=(1, ["a"]), step2=failed, step3=(3, ["c"]), step4=failed)
    mine = rendering()
    for number in (1, 2, 3):
        mine.submit(number, {})
    assert mine.ready() == [(1, ["a"]), (3, ["c"])]
    mine.submit(4, {})
    assert mine.rest() == []
    assert [r.getMessage() for r in caplog.records] == [
        f"no samples of step {number}: torch.OutOfMemoryError: CUDA out of memory" for number in (2, 4)
    ]
    assert len(renderers.made) == 1


def test_after_a_renderer_has_died_the_next_sample_has_another(monkeypatch, rendering):
    renderers = Renderers(monkeypatch, step1=ActorDiedError(), step2=ActorDiedError(), step3=(3, ["c"]))
    mine = rendering()
    mine.submit(1, {})
    mine.submit(2, {})
    assert mine.rest() == []
    mine.submit(3, {})
    assert mine.rest() == [(3, ["c"])]
    assert len(renderers.made) == 2


@pytest.mark.parametrize(("use_gpu", "gpus", "device"), [(False, 0, "cpu"), (True, 1, None)])
def test_a_renderer_without_a_gpu_of_its_own_is_on_the_cpu(monkeypatch, rendering, use_gpu, gpus, device):
    renderers = Renderers(monkeypatch)
    rendering(use_gpu).submit(1, {})
    assert renderers.options == [{"num_cpus": 0, "num_gpus": gpus}]
    assert renderers.made == [(None, device, {"dtype": "float32", "quantize": "none"})]


def test_samples_of_the_end_that_a_lost_renderer_was_to_make_are_none(monkeypatch, rendering, tmp_path):
    Renderers(monkeypatch, step3=ActorDiedError())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rendering(use_gpu=True).final(MemberState(3, {})) == []


def test_a_foundation_without_its_denoiser_leaves_the_last_samples_to_a_renderer(
    monkeypatch, rendering, tmp_path
):
    renderers = Renderers(monkeypatch, step3=(3, ["a"]))
    mine = rendering()
    mine.foundation, _ = load(Job("slide", "", "", "", "tiny-random:unet3d"), {"zero": 3, "workers": 2}, 1)
    assert mine.foundation.pipeline.vae is not None
    assert mine.final(MemberState(3, {})) == ["a"]
    assert len(renderers.made) == 1


@pytest.fixture
def story(monkeypatch, tmp_path, unet3d):
    """Runs a job whose training takes no time, of a foundation that is on a GPU, so it is said; gives what happened."""
    told, where = [], [torch.device("cuda", 0)]

    def move(self, device):
        where[0] = torch.device(device)
        told.append(f"foundation to {where[0]}")

    def fit(task, run, *, use_gpu, on_event):
        told.append("trained")
        return MemberState(3, {}, {"metrics": {}})

    def render(*_):
        told.append("rendered")
        return [np.zeros((4, 32, 32, 3), np.uint8)]

    def publish(job, config, foundation, cached, run, registry, record, state, samples, invert):
        told.append(f"published with {len(samples)} files of samples")
        return "the version"

    def prepare(job, clips, *_):
        told.append("prepared")
        return clips

    settings = {"steps": 3, "frames": 4, "height": 32, "width": 32}
    config = make_config(settings)
    monkeypatch.setattr(Foundation, "device", property(lambda self: where[0]))
    monkeypatch.setattr(Foundation, "to", move)

    @contextmanager
    def session(address):
        told.append("Ray starts")
        try:
            yield Cluster("", started=False)
        finally:
            told.append("Ray ends")

    monkeypatch.setattr("infra.ray.cluster.ray_session", session)
    monkeypatch.setattr("infra.ray.cluster.has_gpus", lambda: False)
    monkeypatch.setattr("infra.ray.cluster.check_workers", lambda *_, **__: None)
    monkeypatch.setattr("training.ray.train.fit", fit)
    monkeypatch.setattr("training.runs.samples.render", render)
    monkeypatch.setattr(training.runs.run, "load", lambda job, given, clips: (unet3d, config))
    monkeypatch.setattr(training.runs.run, "prepare_latents", prepare)
    monkeypatch.setattr("training.runs.publish.publish_run", publish)
    clips = write_set(tmp_path / "clips", *sliding_clips("slide", count=1))

    def run(version="the version"):
        job = Job("slide", clips, str(tmp_path / "run"), str(tmp_path / "registry"), "tiny-random:unet3d")
        assert run_job(job, settings) == version
        return told

    run.told = told
    return run


def test_the_driver_leaves_its_gpu_to_the_workers_until_it_renders(story):
    assert story() == [
        "Ray starts",
        "prepared",
        "foundation to cpu",
        "trained",
        "foundation to cuda:0",
        "rendered",
        "published with 2 files of samples",
        "Ray ends",
    ]


def test_a_foundation_that_cannot_be_loaded_is_said_and_ray_ends(story, monkeypatch):
    def refuse(job, given, clips):
        raise UserError("no such foundation")

    monkeypatch.setattr(training.runs.run, "load", refuse)
    with pytest.raises(UserError, match="no such foundation"):
        story()
    assert story.told == ["Ray starts", "Ray ends"]


def test_a_ray_that_does_not_start_is_said(story, monkeypatch):
    def refuse(address):
        raise UserError("Ray does not start on this machine")

    monkeypatch.setattr("infra.ray.cluster.ray_session", refuse)
    with pytest.raises(UserError, match="Ray does not start on this machine"):
        story()
    assert story.told == []


def test_a_finished_run_answers_without_ray_and_one_that_goes_on_starts_it_late(story, monkeypatch):
    version = SimpleNamespace(ref="slide@1", metadata={"steps": 3})
    monkeypatch.setattr(training.runs.run, "finished", lambda run, registry: version)
    assert story(version) == []
    version.metadata["steps"] = 2
    assert story()[:2] == ["prepared", "Ray starts"]


def test_a_training_whose_samples_cannot_be_rendered_is_published_without_them(story, monkeypatch, caplog):
    def render(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("training.runs.samples.render", render)
    assert story()[-2] == "published with 0 files of samples"
    assert "no samples of step 3: CUDA out of memory. Tried to allocate 20.00 GiB." in [
        record.getMessage() for record in caplog.records
    ]


def away(*_):
    raise StorageAway("the storage is away")


def test_a_training_whose_sheet_cannot_be_shown_is_published_all_the_same(story, monkeypatch, caplog):
    monkeypatch.setattr(TensorBoard, "sampled", away)
    assert story()[-2] == "published with 2 files of samples"
    assert "the samples of step 3 are not shown: the storage is away" in caplog.text


def test_a_board_that_cannot_be_stored_is_said_when_it_closes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(FolderStorage, "put_file", away)
    with TensorBoard(FolderStorage(tmp_path / "run")) as board:
        board._at(1).add_scalar("loss/total", 1.0, 1)
    assert "/tensorboard are not stored: the storage is away" in caplog.text
