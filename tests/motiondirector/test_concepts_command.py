"""`motiondirector concepts`: the registry from a shell, and what it refuses."""

import io
import json
import pickle
import sys
import uuid

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sample_adapters import plain_adapter, random_adapter

from infra.storage import open_storage
from models.adapters.file import WEIGHTS_FILE, Adapter, read_adapter, save_adapter
from models.load import load_foundation


@pytest.fixture(scope="module")
def foundation():
    return load_foundation("tiny-random:unet3d", dtype="float32")


@pytest.fixture
def folder(tmp_path, foundation):
    """What `train` leaves: an adapter that changes the base, with a sample video."""
    save_adapter(
        tmp_path / "adapter",
        random_adapter(foundation, rank=2, scale=0.1),
        foundation,
        metadata={"concept": "orbit", "captions": ["a [/b] car"], "steps": 3},
    )
    (tmp_path / "adapter" / "samples").mkdir()
    (tmp_path / "adapter" / "samples" / "a.mp4").write_bytes(b"video")
    return tmp_path / "adapter"


@pytest.fixture
def registry(request, tmp_path, monkeypatch):
    """The URI of an empty registry, in MOTIONDIRECTOR_REGISTRY: a folder, or S3 where a test asks for it."""
    uri = str(tmp_path / "registry")
    if getattr(request, "param", "folder") == "s3":
        uri = f"{request.getfixturevalue('s3').uri}/{uuid.uuid4().hex}"
    monkeypatch.setenv("MOTIONDIRECTOR_REGISTRY", uri)
    return uri


def run_json(run, *arguments):
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("registry", ["folder", "s3"], indirect=True)
def test_a_concept_from_publishing_to_removing(run, registry, folder, tmp_path):
    for number in (1, 2):
        version = run_json(run, "concepts", "publish", folder, "--concept", "orbit")
        assert version["ref"] == f"orbit@{number}"
    assert version["metadata"]["captions"] == ["a [/b] car"]
    assert version["metadata"]["rank"] == 2

    assert [info["name"] for info in run_json(run, "concepts", "list")] == ["orbit"]
    code, out, _ = run("concepts", "list")
    assert code == 0
    assert "orbit@2" in out
    code, out, _ = run("concepts", "show", "orbit")
    assert code == 0
    for text in ("orbit@1, orbit@2", version["adapter_sha256"], "samples/a.mp4", "a [/b] car"):
        assert text in out
    assert run_json(run, "concepts", "show", "orbit@1")["versions"] == [1, 2]

    code, out, _ = run("concepts", "pull", "orbit", "--to", tmp_path / "pulled")
    assert code == 0
    for path in (WEIGHTS_FILE, "adapter_config.json", "samples/a.mp4"):
        assert (tmp_path / "pulled" / path).read_bytes() == (folder / path).read_bytes()

    assert run_json(run, "concepts", "rm", "orbit@2", "--yes") == {"removed": ["orbit@2"]}
    assert run_json(run, "concepts", "show", "orbit")["ref"] == "orbit@1"
    assert run("concepts", "rm", "orbit", "--all", "--yes")[0] == 0
    assert run_json(run, "concepts", "list") == []


def test_the_merged_export_answers_as_base_and_adapter(
    run, registry, folder, foundation, tmp_path, monkeypatch
):
    from diffusers import UNet3DConditionModel
    from peft import PeftModel

    run("concepts", "publish", folder, "--concept", "orbit")
    with monkeypatch.context() as machine:  # one with a GPU, where a foundation is usually loaded in bfloat16
        machine.setattr(torch.cuda, "is_available", lambda: True)
        answer = run_json(run, "concepts", "export", "orbit", "--to", tmp_path / "unet", "--scale", 1.0)
    assert answer["foundation"] == "tiny-random:unet3d"
    merged = UNet3DConditionModel.from_pretrained(tmp_path / "unet").eval()
    fresh = load_foundation("tiny-random:unet3d", dtype="float32").denoiser.eval()
    config = fresh.config
    latents = torch.randn(1, config.in_channels, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = torch.randn(1, 5, config.cross_attention_dim, generator=torch.Generator().manual_seed(2))
    base = UNet3DConditionModel.from_config(config).eval()
    base.load_state_dict(fresh.state_dict())
    with torch.no_grad():
        plain = base(latents, 10, text).sample
        peft = PeftModel.from_pretrained(base, folder)(latents, 10, text).sample
        ours = merged(latents, 10, text).sample
    torch.testing.assert_close(ours, peft, rtol=1e-4, atol=1e-5)
    assert (ours - plain).abs().max() > 1e-3
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")) == []


def spoil(folder, change):
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE, metadata=metadata)


def with_nan(folder):
    spoil(folder, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))


def with_an_unknown_key(folder):
    spoil(folder, lambda tensors: tensors.update({"conv.weight": torch.ones(2, 2)}))


def with_shapes_that_do_not_meet(folder):
    def change(tensors):
        tensors[next(iter(tensors))] = torch.ones(3, 5)

    spoil(folder, change)


def a_pickle(folder):
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps({"x": 1}))


def a_torch_pickle(folder):
    torch.save({"x": torch.ones(2)}, folder / WEIGHTS_FILE)


def cut(folder):
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[: len(data) // 2])


def empty(folder):
    (folder / WEIGHTS_FILE).write_bytes(b"")


def without_config(folder):
    (folder / "adapter_config.json").unlink()


def without_weights(folder):
    (folder / WEIGHTS_FILE).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        with_nan,
        with_an_unknown_key,
        with_shapes_that_do_not_meet,
        a_pickle,
        a_torch_pickle,
        cut,
        empty,
        without_config,
        without_weights,
    ],
)
def test_a_bad_adapter_is_refused_before_anything_is_written(run, registry, folder, damage):
    damage(folder)
    refused(run, "concepts", "publish", folder, "--concept", "orbit")
    assert list(open_storage(registry).list()) == []


def wrong_layer_shape(folder):
    def change(tensors):
        for key in tensors:
            if "lora_A" in key:
                tensors[key] = torch.ones(2, tensors[key].shape[1] + 1)

    spoil(folder, change)


def test_with_the_foundation_its_layers_are_checked_too(run, registry, folder):
    run_json(run, "concepts", "publish", folder, "--concept", "orbit", "--foundation", "tiny-random:unet3d")
    wrong = refused(run, "concepts", "publish", folder, "--concept", "b", "--foundation", "tiny-random:wan")
    assert "made for foundation tiny-random-unet3d" in wrong
    wrong_layer_shape(folder)
    refused(run, "concepts", "publish", folder, "--concept", "b", "--foundation", "tiny-random:unet3d")
    assert [info["name"] for info in run_json(run, "concepts", "list")] == ["orbit"]


def refused(run, *arguments):
    """The sentence with which a command refuses; exit code 2, nothing on stdout."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert len(err) < 500
    return err


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "сar", "[/b]", "x" * 10_000, ""])
def test_a_bad_name_is_one_sentence(run, registry, folder, name):
    assert "concept name" in refused(run, "concepts", "publish", folder, "--concept", name)
    assert "concept name" in refused(run, "concepts", "show", name)
    assert list(open_storage(registry).list()) == []


def test_what_is_not_there_is_one_sentence(run, registry, folder, tmp_path):
    run("concepts", "publish", folder, "--concept", "orbit")
    for command in (
        ["show"],
        ["pull", "--to", tmp_path / "out"],
        ["export", "--to", tmp_path / "out"],
    ):
        assert "did you mean orbit" in refused(run, "concepts", *command, "orbti")
        assert "available: orbit@1" in refused(run, "concepts", *command, "orbit@2")
    assert "available: orbit@1" in refused(run, "concepts", "rm", "orbit@9", "--yes")
    assert not (tmp_path / "out").exists()


def test_rm_wants_to_know_which(run, registry, folder, monkeypatch):
    run("concepts", "publish", folder, "--concept", "orbit")
    assert "orbit@3 is the third" in refused(run, "concepts", "rm", "orbit", "--yes")
    assert "say which" in refused(run, "concepts", "rm", "orbit@1", "--all", "--yes")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run("concepts", "rm", "orbit@1")[0] == 1
    assert run("concepts", "show", "orbit@1")[0] == 0


def test_an_export_does_not_overwrite(run, registry, folder, tmp_path):
    run("concepts", "publish", folder, "--concept", "orbit")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work").write_text("precious")
    assert "not empty" in refused(run, "concepts", "export", "orbit", "--to", tmp_path / "mine")
    assert "does not hold orbit@1" in refused(run, "concepts", "pull", "orbit", "--to", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["work"]


def test_metrics_come_from_a_json_file(run, registry, folder, tmp_path):
    file = tmp_path / "metrics.json"
    for bad in ("not json", "[1]", '{"x": NaN}'):
        file.write_text(bad)
        refused(run, "concepts", "publish", folder, "--concept", "orbit", "--metrics", file)
    assert list(open_storage(registry).list()) == []
    file.write_text('{"fidelity": 0.9}')
    version = run_json(run, "concepts", "publish", folder, "--concept", "orbit", "--metrics", file)
    assert version["metrics"] == {"fidelity": 0.9}


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("s3://no-such-bucket/x", "S3 bucket 'no-such-bucket' does not exist"),
        ("s3://No/x", "S3 bucket name 'No'"),
        ("gs://bucket/x", "unknown scheme gs://"),
    ],
)
def test_a_registry_that_cannot_be_is_one_sentence(run, s3, folder, uri, sentence):
    assert sentence in refused(run, "concepts", "list", "--registry", uri)
    assert sentence in refused(run, "concepts", "publish", folder, "--concept", "orbit", "--registry", uri)
    assert sentence in refused(run, "concepts", "pull", "orbit", "--registry", uri)


def unsigned(folder):
    """As stock PEFT saves it: nothing in the header."""
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def test_an_adapter_that_names_no_foundation_needs_one_and_is_usable_then(run, registry, folder, tmp_path):
    unsigned(folder)
    asked = refused(run, "concepts", "publish", folder, "--concept", "orbit")
    assert "does not say which foundation it was made for" in asked
    assert "--foundation" in asked
    assert list(open_storage(registry).list()) == []
    wrong = refused(
        run, "concepts", "publish", folder, "--concept", "orbit", "--foundation", "tiny-random:wan"
    )
    assert "Was it made for another model?" in wrong
    version = run_json(
        run, "concepts", "publish", folder, "--concept", "orbit", "--foundation", "tiny-random:unet3d"
    )
    assert version["metadata"]["foundation"] == "tiny-random-unet3d"
    assert version["metadata"]["concept"] == "orbit"
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}  # the given folder stays as it was
    out = tmp_path / "out.mp4"
    made = ["generate", "--prompt", "a bear", "--concept", "orbit", "--foundation", "tiny-random:unet3d"]
    assert run(*made, "--steps", "1", "--seed", "1", "-o", out)[0] == 0
    assert out.stat().st_size > 0


def test_both_adapters_of_a_folder_are_checked(run, registry, folder, foundation):
    save_adapter(folder / "spatial", plain_adapter(foundation, "spatial"), foundation)
    config = json.loads((folder / "spatial" / "adapter_config.json").read_text())
    (folder / "spatial" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 8}))
    version = run_json(run, "concepts", "publish", folder, "--concept", "orbit")
    code, _, _ = run("concepts", "pull", "orbit", "--to", folder.parent / "pulled")
    assert code == 0
    with safe_open(folder.parent / "pulled" / "spatial" / WEIGHTS_FILE, framework="pt") as opened:
        up = next(key for key in opened.keys() if key.endswith("lora_B.weight"))  # noqa: SIM118
        assert opened.get_tensor(up).unique().tolist() == [4.0]
    assert version["files"][WEIGHTS_FILE]["sha256"] == version["adapter_sha256"]

    with_nan(folder / "spatial")
    assert "NaN" in refused(run, "concepts", "publish", folder, "--concept", "b")
    save_adapter(
        folder / "spatial",
        Adapter("temporal", 2, {n: (torch.ones(2, 4), torch.ones(4, 2)) for n in ("a", "b")}),
        foundation,
    )
    assert "holds a temporal adapter" in refused(run, "concepts", "publish", folder, "--concept", "b")
    (folder / "spatial" / "adapter_config.json").unlink()
    assert "adapter_config.json" in refused(run, "concepts", "publish", folder, "--concept", "b")
    assert [info["name"] for info in run_json(run, "concepts", "list")] == ["orbit"]


@pytest.fixture
def spatial_folder(tmp_path, foundation):
    """What method appearance leaves: a spatial adapter, in `spatial/`."""
    save_adapter(
        tmp_path / "look" / "spatial",
        random_adapter(foundation, "spatial", rank=2, seed=3, scale=0.1),
        foundation,
        metadata={"method": "appearance", "concept": "look"},
    )
    return tmp_path / "look"


def test_an_appearance_is_published_shown_pulled_and_exported_as_a_motion_is(
    run, registry, folder, spatial_folder, foundation, tmp_path
):
    from diffusers import UNet3DConditionModel

    run("concepts", "publish", folder, "--concept", "orbit")
    version = run_json(run, "concepts", "publish", spatial_folder, "--concept", "look")
    assert (version["gives"], version["metadata"]["method"]) == (["appearance"], "appearance")
    assert sorted(version["files"]) == ["spatial/adapter_config.json", f"spatial/{WEIGHTS_FILE}"]
    assert version["files"][f"spatial/{WEIGHTS_FILE}"]["sha256"] == version["adapter_sha256"]
    assert [info["name"] for info in run_json(run, "concepts", "list")] == ["look", "orbit"]
    for concept, gives in (("look", "appearance"), ("orbit", "motion")):
        _, out, _ = run("concepts", "show", concept)
        assert any(line.replace("│", " ").split() == ["gives", gives] for line in out.splitlines())

    assert run("concepts", "pull", "look", "--to", tmp_path / "pulled")[0] == 0
    again = run_json(run, "concepts", "publish", tmp_path / "pulled" / "spatial", "--concept", "again")
    assert again["files"] == version["files"], "the folder of the adapter alone is the same version"

    run_json(run, "concepts", "export", "look", "--to", tmp_path / "unet")
    merged = UNet3DConditionModel.from_pretrained(tmp_path / "unet")
    saved = read_adapter(spatial_folder / "spatial").tensors
    for name, (a, b) in saved.items():
        weight = foundation.denoiser.get_submodule(name).weight
        torch.testing.assert_close(merged.get_submodule(name).weight, weight + b @ a)


def test_a_stock_adapter_of_spatial_layers_is_an_appearance(
    run, registry, spatial_folder, foundation, tmp_path
):
    folder = spatial_folder / "spatial"
    unsigned(folder)
    for place in (folder, spatial_folder):  # the adapter's own folder, and one with it in `spatial/`
        version = run_json(
            run, "concepts", "publish", place, "--concept", "look", "--foundation", "tiny-random:unet3d"
        )
        assert version["gives"] == ["appearance"]
        assert sorted(version["files"]) == ["spatial/adapter_config.json", f"spatial/{WEIGHTS_FILE}"]
        assert version["metadata"]["path"] == "spatial"
    unsigned_wan = tmp_path / "wan" / "spatial"
    wan = load_foundation("tiny-random:wan", dtype="float32", parts=("denoiser",))
    save_adapter(unsigned_wan, plain_adapter(wan, "spatial"), wan)
    unsigned(unsigned_wan)
    version = run_json(
        run, "concepts", "publish", unsigned_wan.parent, "--concept", "w", "--foundation", "tiny-random:wan"
    )
    assert version["gives"] == ["appearance"], "where no layer tells, the folder does"
    assert f"holds no {WEIGHTS_FILE} and no spatial" in refused(
        run, "concepts", "publish", tmp_path, "--concept", "b"
    )
    (folder / "adapter_config.json").unlink()
    assert "adapter_config.json" in refused(run, "concepts", "publish", spatial_folder, "--concept", "b")
