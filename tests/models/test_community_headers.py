"""Adapter files as the community's tools write them, by keys and shapes alone, on the configurations of the real models."""

import itertools
import re
from pathlib import Path

import pytest
import torch
import yaml

from infra.errors import UserError
from models.adapters.importing import import_files
from models.load import load_foundation

HEADERS = yaml.safe_load((Path(__file__).parent / "headers" / "community.yaml").read_text())


def expanded(line):
    """{key: shape} of a pattern."""
    pattern, shape = line.split(" ", 1)
    parts = re.split(r"\{(.+?)\}", pattern)
    choices = [[part] if number % 2 == 0 else _listed(part) for number, part in enumerate(parts)]
    return {"".join(chosen): yaml.safe_load(shape) for chosen in itertools.product(*choices)}


def _listed(text):
    first, dash, last = text.partition("-")
    return [str(one) for one in range(int(first), int(last) + 1)] if dash else text.split(",")


def zeros(lines):
    """Tensors without memory of their own: one zero seen in the shape."""
    found = {}
    for line in lines:
        keys = expanded(line)
        assert not keys.keys() & found.keys(), "each key is listed once"
        found |= {key: torch.zeros(()).expand(shape) for key, shape in keys.items()}
    return found


@pytest.fixture
def files(tmp_path, monkeypatch):
    """files(header, more) makes the files of a header, whose tensors are read from here instead of the disk."""
    made = {}

    def make(header, more=()):
        for name, lines in header["files"].items():
            (tmp_path / name).touch()
            made[tmp_path / name] = zeros([*lines, *more])
        return list(made)

    monkeypatch.setattr("models.adapters.layouts.read_tensors", lambda file: ({}, made[file]))
    return make


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header["name"].split(",")[0])
def test_every_key_of_a_community_file_is_imported_or_reported(header, files):
    foundation = load_foundation(f"published:{header['model']}", parts=(), device="cpu", dtype="bf16")
    given = files(header)
    imported = import_files(given, foundation)
    assert sum(len(one.tensors) for one in imported.files.values()) == header["layers"]
    assert {one.layout for one in imported.files.values()} == {header["layout"]}
    assert all(one.unmatched == () for one in imported.files.values())
    for name, (a, b) in imported.adapters["temporal"].tensors.items():
        linear = foundation.denoiser.get_submodule(name)
        assert (a.shape[1], b.shape[0]) == (linear.in_features, linear.out_features)


def test_keys_that_no_adapter_here_can_express_are_all_reported(files):
    (header,) = (one for one in HEADERS if "left" in one)
    foundation = load_foundation(f"published:{header['model']}", parts=(), device="cpu", dtype="bf16")
    left = sorted(zeros(header["left"]))
    given = files(header, header["left"])
    with pytest.raises(UserError, match=f"{len(left)} of its keys name no layer"):
        import_files(given, foundation)
    imported = import_files(given, foundation, partial=True)
    assert [list(one.unmatched) for one in imported.files.values()] == [left]
    assert sum(len(one.tensors) for one in imported.files.values()) == header["layers"]


def test_a_file_of_another_size_of_the_model_is_refused(files):
    (header,) = (one for one in HEADERS if one["name"].startswith("ai-toolkit"))
    foundation = load_foundation("published:wan-2.1-14b", parts=(), device="cpu", dtype="bf16")
    with pytest.raises(UserError, match=r"expected 5120 inputs and 5120 outputs .* Is it of another size"):
        import_files(files(header), foundation)
