"""`motiondirector generate` and `serve`: what they refuse, in one sentence and before a model is loaded."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import serve as ray_serve
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ProxyStatus, ServeStatus
from sample_adapters import random_adapter

from datasets.video.decode import decode
from datasets.video.writing import read_metadata
from infra.errors import UserError
from infra.ray import cluster
from infra.registry import open_registry
from models.adapters.file import save_adapter
from models.denoise import install, sample
from models.generation import AdapterSettings, GenerationParams
from models.load import load_foundation
from motiondirector.cli import build
from serving.engine import finishing

TINY = ["--foundation", "tiny-random:unet3d"]


def run(*args: str | Path) -> None:
    build()([str(arg) for arg in args], standalone_mode=False)


def test_generate_writes_a_video_that_says_what_made_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "out.mp4"
    run("generate", "--prompt", "a bear", "--seed", "5", "--steps", "2", "-o", out, *TINY)
    said = capsys.readouterr().out
    assert "seed 5" in said
    assert "2 steps" in said
    made = read_metadata(out)
    assert (made["prompt"], made["seed"], made["concept"]) == ("a bear", "5", "none")
    assert decode(out).frames_FHWC.shape[-1] == 3


def test_generate_has_an_adapter_act_in_the_first_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`--until`: the frames, before the codec, that models.denoise makes of the same settings."""
    made: list[np.ndarray] = []
    real = finishing.finish
    monkeypatch.setattr(finishing, "finish", lambda *given: made.append(real(*given)) or made[-1])
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype=torch.float32)
    adapter = random_adapter(foundation, rank=2, scale=0.6)
    saved = save_adapter(tmp_path / "adapter", adapter, foundation)
    registry = open_registry(tmp_path / "registry")
    registry.publish("orbit", tmp_path / "adapter", metadata=dict(saved.metadata))
    [slot] = install(foundation, {"temporal": adapter.tensors}, AdapterSettings(until=0.5))
    params = GenerationParams(prompt="a bear", seed=5, steps=4, adapters=(slot,))
    whole = params.model_copy(update={"adapters": (slot.model_copy(update={"steps": (0.0, 1.0)}),)})
    expected, always = (frames.astype(int) for frames in sample(foundation, [params, whole], batch_size=1))
    assert abs(expected - always).max() > 4, "the window is seen in the frames"

    given = ["--prompt", "a bear", "--seed", "5", "--steps", "4", "--registry", registry.uri, *TINY]
    run("generate", *given, "--concept", "orbit", "--until", "0.5", "-o", tmp_path / "half.mp4")
    run("generate", *given, "--concept", "orbit", "-o", tmp_path / "whole.mp4")
    adapters = [read_metadata(tmp_path / f"{name}.mp4")["adapters"] for name in ("half", "whole")]
    assert adapters == [f"temporal:{saved.sha256}*1,steps=0/0.5", f"temporal:{saved.sha256}*1"]
    half, full = made
    assert abs(half.astype(int) - expected).max() <= 1
    assert abs(full.astype(int) - always).max() <= 1


def test_generate_names_the_words_that_the_text_encoder_does_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompt = "a bear " + "that walks along a wide path " * 12 + "in a green forest"
    run("generate", "--prompt", prompt, "--steps", "1", "-o", tmp_path / "out.mp4", *TINY)
    said = capsys.readouterr()
    assert "reads only the first 30 tokens of the prompt; ignored: " in said.err
    assert "in a green forest'" in said.err
    assert "warning" not in said.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "-3"], "--steps"),
        (["--size", "big"], "--size: expected WIDTHxHEIGHT"),
        (["--prompt", "x" * 10_000], "--prompt: .* 2000 characters"),
        (["--prompt", "  "], "prompt is empty"),
        (["--server", "localhost:8000"], "is not a URL"),
        (["--foundation", "/nowhere"], "neither a folder here"),
        ([*TINY, "--size", "30x32"], "width 30 does not suit"),
        ([*TINY, "--dtype", "float8"], "--dtype 'float8'"),
        ([*TINY, "--concept", "nothing", "--until", "0"], "--until: .* greater than 0"),
        ([*TINY, "--concept", "nothing", "--until", "1.5"], "--until: .* less than or equal to 1"),
        ([*TINY, "--appearance", "nothing", "--appearance-until", "-1"], "--appearance-until: "),
        ([*TINY, "--concept", "nothing", "--scale", "9"], "--scale: expected a number from -4 to 4"),
        ([*TINY, "--concept", "nothing", "--until", "0.5"], "concept nothing is not in the registry"),
        ([*TINY, "--concept", "nothing"], "concept nothing is not in the registry"),
        ([*TINY, "--concept", "../etc"], "concept name"),
        (["-o", "."], "is a folder"),
        (
            [*TINY, "--noise-prior", "0.3"],
            "--noise-prior needs a concept or a clip whose noise it uses; give --concept",
        ),
        (
            [*TINY, "--concept", "nothing", "--noise-prior", "1.5"],
            "--noise-prior 1.5: .* less than or equal to 1",
        ),
        (
            [*TINY, "--concept", "nothing", "--noise-prior", "-1"],
            "--noise-prior -1.0: .* greater than or equal to 0",
        ),
        ([*TINY, "--concept", "nothing", "--noise-prior", "0.3"], "concept nothing is not in the registry"),
        (
            [*TINY, "--prior-concept", "nothing", "--noise-prior", "0.3"],
            "concept nothing is not in the registry",
        ),
        ([*TINY, "--prior-concept", "../etc", "--noise-prior", "0.3"], "concept name"),
        (
            [*TINY, "--prior-concept", "a", "--prior-clip", "b", "--noise-prior", "0.3"],
            "are both given; give one of them",
        ),
        ([*TINY, "--prior-clip", "a.mp4"], "--prior-concept and --prior-clip need a weight"),
        (
            [*TINY, "--prior-clip", "nowhere.mp4", "--noise-prior", "0.3"],
            "--prior-clip nowhere.mp4: no such file",
        ),
        ([*TINY, "--prior-clip", "nowhere#1234", "--noise-prior", "0.3"], "no clips at nowhere"),
        (
            ["--server", "http://127.0.0.1:9", "--prior-clip", "a.mp4", "--noise-prior", "0.3"],
            "--prior-clip cannot be used with --server",
        ),
    ],
)
def test_generate_refuses_with_one_sentence_and_leaves_nothing(
    tmp_path: Path, options: list[str], message: str
):
    out = tmp_path / "out.mp4"
    base = ["generate", "--prompt", "a bear", "-o", str(out), "--registry", str(tmp_path / "registry")]
    with pytest.raises(UserError, match=message):
        run(*base, *options)
    assert list(tmp_path.glob("*")) == []


def test_generate_says_when_no_server_answers(tmp_path: Path):
    with pytest.raises(UserError, match=r"no server answers at http://127\.0\.0\.1:9"):
        run("generate", "--prompt", "x", "--server", "http://127.0.0.1:9", "-o", tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "no API key"),
        (["--host", "203.0.113.7", "--api-key-file", "KEYS"], "cannot listen on 203.0.113.7"),
        (["--api-key-file", "/nowhere"], "cannot be read"),
        (["--foundation", "/nowhere"], "neither a folder here"),
        ([*TINY, "--dtype", "float8"], "--dtype 'float8'"),
        ([*TINY, "--warm-size", "8x64x64", "--warm-size", "64x64"], "--warm-size '64x64'"),
    ],
)
def test_serve_refuses_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
):
    monkeypatch.delenv("MOTIONDIRECTOR_API_KEY", raising=False)
    (tmp_path / "keys").write_text("a-long-and-random-key")
    options = [str(tmp_path / "keys") if option == "KEYS" else option for option in options]
    data = tmp_path / "data"
    with pytest.raises(UserError, match=message):
        run("serve", "--port", "0", "--data-dir", data, "--registry", tmp_path / "registry", *options)
    assert not data.exists()
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


def test_serve_says_when_the_port_is_taken(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            run("serve", "--port", str(port), "--registry", tmp_path / "registry", *TINY)


@pytest.mark.parametrize(
    "status",
    [
        ServeStatus(
            applications={"theirs": ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 0.0, {})}
        ),
        ServeStatus(proxies={"node": ProxyStatus.HEALTHY}),
    ],
    ids=["an application", "none yet"],
)
def test_serve_leaves_a_ray_serve_that_runs_already_as_it_is(
    status: ServeStatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    touched = []
    monkeypatch.setattr(cluster, "ray_session", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "check_workers", lambda *_, **__: None)
    monkeypatch.setattr(ray_serve, "status", lambda: status)
    for name in ("start", "run", "delete", "shutdown"):
        monkeypatch.setattr(ray_serve, name, lambda *_, name=name, **__: touched.append(name))
    with pytest.raises(UserError, match="Ray Serve is already running on this cluster") as caught:
        run(
            "serve", "--address", "auto", "--port", "0", "--registry", tmp_path, "--data-dir", tmp_path, *TINY
        )
    assert all(name in caught.value.message for name in status.applications)
    assert touched == []


def test_serve_says_where_it_serves_and_stops_with_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("MOTIONDIRECTOR_API_KEY", raising=False)
    calls = []
    monkeypatch.setattr(cluster, "ray_session", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "check_workers", lambda *_, **__: None)
    monkeypatch.setattr(ray_serve, "status", lambda: ServeStatus())
    for name in ("start", "run", "shutdown"):
        monkeypatch.setattr(
            ray_serve, name, lambda *_, called=name, **options: calls.append((called, options))
        )

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run("serve", "--port", "0", "--registry", tmp_path, "--data-dir", tmp_path / "data", *TINY)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr()
    assert [name for name, _ in calls] == ["start", "run", "shutdown"]
    http = calls[0][1]["http_options"]
    assert f"serving at http://127.0.0.1:{http['port']} (0 concepts;" in said.out
    assert said.err.splitlines() == ["loading the model ...", "stopping ..."]
