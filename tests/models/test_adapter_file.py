"""What may not load is refused before it can touch a model, in one sentence."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_adapters import plain_adapter

from infra.errors import InvalidInput, NotFound, UserError
from models.adapters.file import WEIGHTS_FILE, read_adapter, save_adapter
from models.load import load_foundation


@pytest.fixture(scope="module")
def foundation():
    return load_foundation("tiny-random:unet3d")


@pytest.fixture
def folder(tmp_path, foundation):
    save_adapter(tmp_path, plain_adapter(foundation), foundation)
    return tmp_path


def spoil(folder, change, metadata=None):
    from safetensors import safe_open

    file = folder / WEIGHTS_FILE
    with safe_open(file, framework="pt") as opened:
        known = dict(opened.metadata())
    tensors = load_file(file)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata={**known, **(metadata or {})})


def first(tensors, half):
    return next(key for key in tensors if key.endswith(f"lora_{half}.weight"))


def put_nan(tensors):
    tensors[first(tensors, "A")][0, 0] = float("nan")


def put_inf(tensors):
    tensors[first(tensors, "B")][0, 0] = float("inf")


def drop_half(tensors):
    del tensors[first(tensors, "B")]


def drop_layer(tensors):
    name = first(tensors, "B")
    del tensors[name], tensors[name.replace("lora_B", "lora_A")]


def unknown_key(tensors):
    tensors["text_model.weight"] = torch.ones(2, 2)


def unknown_layer(tensors):
    tensors["base_model.model.nowhere.lora_A.weight"] = torch.ones(2, 4)
    tensors["base_model.model.nowhere.lora_B.weight"] = torch.ones(4, 2)


def wrong_shape(tensors):
    tensors[first(tensors, "A")] = torch.ones(2, 3)


def other_rank(tensors):
    name = first(tensors, "A")
    tensors[name] = torch.ones(3, tensors[name].shape[1])


def three_dimensions(tensors):
    tensors[first(tensors, "A")] = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put_nan, "NaN or infinite"),
        (put_inf, "NaN or infinite"),
        (drop_half, "expected lora_A and lora_B"),
        (drop_layer, r"lacks \d+ temporal layers"),
        (unknown_key, "unknown key 'text_model.weight'"),
        (unknown_layer, "are not temporal layers of"),
        (wrong_shape, r"\(in, out\); expected"),
        (other_rank, "share a rank"),
        (three_dimensions, "expected a matrix"),
        (lambda tensors: tensors.clear(), "it holds no tensors"),
    ],
)
def test_a_spoiled_adapter_is_refused(folder, foundation, change, sentence):
    spoil(folder, change)
    with pytest.raises(InvalidInput, match=sentence):
        read_adapter(folder / WEIGHTS_FILE, foundation)
    with pytest.raises(UserError):
        read_adapter(folder, foundation)


def test_a_whole_adapter_is_read(folder, foundation):
    assert read_adapter(folder, foundation).rank == 2


def test_an_adapter_for_another_foundation_is_refused(folder, foundation):
    spoil(folder, lambda tensors: None, {"foundation_fingerprint": "0" * 64, "foundation": "zeroscope"})
    with pytest.raises(UserError, match="made for foundation zeroscope") as caught:
        read_adapter(folder, foundation)
    assert caught.value.code == "foundation_mismatch"


def test_an_adapter_that_names_no_foundation_is_told_what_to_do(folder, foundation):
    save_file(load_file(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not say which foundation .* --foundation MODEL") as caught:
        read_adapter(folder, foundation)
    assert caught.value.code == "foundation_unknown"


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled!')",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_is_never_opened(tmp_path, protocol):
    file = tmp_path / WEIGHTS_FILE
    file.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    with pytest.raises(UserError, match="it is a pickle"):
        read_adapter(file)


def test_a_torch_archive_is_never_opened(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(UserError, match="it is a pickle"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_other_bytes_are_refused(tmp_path, content):
    file = tmp_path / WEIGHTS_FILE
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"safetensors|empty"):
        read_adapter(file)


def test_a_truncated_file_is_refused(folder):
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        read_adapter(folder)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        read_adapter(tmp_path / "nothing.safetensors")


def test_a_place_that_cannot_be_written_is_one_sentence_and_nothing_half_written(
    folder, foundation, tmp_path
):
    place = tmp_path / "place"
    (place / WEIGHTS_FILE).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{WEIGHTS_FILE}: Is a directory"):
        save_adapter(place, read_adapter(folder, foundation), foundation)
    assert not any(path.name.startswith(".") for path in place.iterdir())
