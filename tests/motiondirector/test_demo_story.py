"""The demo's stages, its report and its page, with what Ray does in it done in this process."""

import json
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from rich.console import Console

from datasets.video.decode import decode
from infra.registry import open_registry
from motiondirector.api.train import stored_image
from motiondirector.demo import story
from motiondirector.demo.cast import chosen
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.ray.engine_service import EngineService
from training.adapters import describe, write_adapters
from training.runs.inputs import bucket_of, load, prepare_latents, read_concept
from training.runs.job import Job, Watcher
from training.runs.local import train_local

TINY = "tiny-random:unet3d"
# While a model loads, transformers and diffusers give every module of the process no memory: nothing else loads or makes some.
LOADING = threading.Lock()


class Child:
    """What a started command looks like, done in a thread."""

    def __init__(self, work=None):
        self.returncode, self._work = None, work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        if self._work is not None:
            self.returncode = 1
            self._work()
            self.returncode = 0

    def poll(self):
        return None if self._thread.is_alive() else self.returncode


def train(options):
    """`motiondirector train` of a few options, without Ray."""
    settings = {"steps": int(options["--steps"]), "rank": 2, "method": options.get("--method", "dual")}
    data = options.get("--data")
    if image := options.get("--image"):
        settings["method"] = "appearance"
        about = (
            options["--concept"],
            options["--caption"],
            False,
            options["--run-dir"],
            options["--foundation"],
        )
        data = stored_image(image, *about, settings, Watcher())
    job = Job(options["--concept"], data, "unused", options["--registry"], options["--foundation"])
    read = read_concept(job)
    with LOADING:
        foundation, config = load(job, settings, len(read))
    clips = prepare_latents(job, read, foundation, bucket_of(config, foundation), Watcher(), config)
    with tempfile.TemporaryDirectory() as folder:
        metadata = describe(config, job.concept, clips)
        with LOADING:
            trained = train_local(foundation, job.concept, clips, config)
        write_adapters(Path(folder), foundation, trained, metadata)
        metadata |= {"foundation_fingerprint": foundation.fingerprint}
        name = options.get("--publish-as", job.concept)
        open_registry(job.registry).publish(name, Path(folder), metadata=metadata, metrics={"loss": 1.0})


@contextmanager
def serve(options):
    """`motiondirector serve` of a few options, without Ray."""
    config = ServeConfig(
        foundation=options["--foundation"], registry=options["--registry"], data_dir=options["--data-dir"]
    )
    with LOADING:
        engine = EngineService(config)
    app = create_api(VideoService(config, engine))
    server = uvicorn.Server(uvicorn.Config(app, port=int(options["--port"]), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        engine.close()


@pytest.fixture
def without_ray(run, monkeypatch):
    """The order in which trainings and service began."""
    begun = []

    @contextmanager
    def beside(self, log, *arguments):
        command, *rest = self.say(*arguments)[3:]
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        begun.append(command if command == "serve" else options.get("--publish-as", options["--concept"]))
        with serve(options) if command == "serve" else nullcontext():
            yield Child(None if command == "serve" else lambda: train(options))

    def command(self, *arguments, quiet=False):
        with LOADING:
            code, out, err = run(*self.say(*arguments)[3:])
        assert code == 0, out + err
        return out

    monkeypatch.setattr(story.Demo, "beside", beside)
    monkeypatch.setattr(story.Demo, "command", command)
    monkeypatch.setattr(story, "one_node", lambda cpus, environment: nullcontext())
    monkeypatch.setattr(story, "POLL_S", 0.01)
    return begun


def test_from_clips_to_the_page(without_ray, tmp_path):
    out = tmp_path / "demo"
    demo = story.Demo(out, chosen(None), TINY, steps=2, coupled=True, console=Console(quiet=True))
    began = time.monotonic()
    report = demo.run()
    assert without_ray[:2] == ["orbit", "serve"], "the first training does not wait for the service"
    assert sorted(without_ray[2:]) == ["dressed", "orbit-coupled", "picture", "zigzag"]
    assert [stage["name"] for stage in report["stages"]] == [
        "S3 server and Ray",
        "clips to Parquet",
        "train orbit",
        "generate orbit",
        "train zigzag",
        "generate zigzag",
        "train orbit-coupled",
        "generate orbit-coupled",
        "learn two looks",
        "mix, animate, region",
        "keep the results",
    ]
    assert json.loads((out / "report.json").read_text())["stages"] == report["stages"]
    assert (
        sum(clip["accepted"] for clip in report["ingested"]) == 1 + 4 + 1 + 4
    )  # two motions', the one whose look is learned, and the real ones
    assert [video["concept"] for video in report["videos"]] == ["orbit"] * 3 + ["zigzag"] * 3
    for video in report["videos"]:
        assert decode(out / video["file"]).frames_FHWC.shape == (4, 32, 32, 3)
        others = {"base", "coupled"} if video["concept"] == "orbit" else {"base"}
        assert set(video["beside"]) == others
        assert all((out / file).is_file() for file in video["beside"].values())
        kept = open_registry(out / "registry").resolve(f"{video['concept']}@{video['version']}")
        assert video["adapter_sha256"] == kept.adapter_sha256
    first = report["first_picture"]
    assert first["file"] == report["videos"][0]["file"]
    assert 0 < first["seconds"] < time.monotonic() - began
    assert all(0 <= concept["train_seconds"] < time.monotonic() - began for concept in report["concepts"])
    assert [use["name"] for use in report["uses"]] == ["mix", "animate", "region"]
    paths = [[(use["concept"], use["path"]) for use in shown["adapters"]] for shown in report["uses"]]
    zigzag = ("zigzag", "temporal")
    assert paths == [[("dressed", "spatial"), zigzag], [("picture", "spatial"), zigzag], [zigzag]]
    for use in report["uses"]:
        with_motion, without = (
            decode(out / file).frames_FHWC for file in (use["file"], use["beside"]["base"])
        )
        assert not np.array_equal(with_motion, without)
    assert (out / "sheets" / "uses.png").is_file()
    assert open_registry(out / "registry").resolve("picture").metadata["method"] == "appearance"
    page = (out / "index.html").read_text()
    assert all(video["prompt"] in page for video in report["videos"])
    assert f"{first['seconds']:.0f} s after the start" in " ".join(page.split())
