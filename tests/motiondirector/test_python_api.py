"""The Python API: the snippets of docs/python.md run, and nothing heavy is imported before a name is used."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import motiondirector as md
from infra.registry import DEFAULT_REGISTRY
from models.adapters.file import Adapter, save_adapter

ROOT = Path(__file__).parents[2]


def snippets() -> dict[str, str]:
    """The code of each section of docs/python.md."""
    found = {}
    for section in re.split(r"^## ", (ROOT / "docs" / "python.md").read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        if blocks := re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            found[title] = "\n".join(blocks)
    return found


def python(code: str, folder: Path) -> str:
    """What a process prints that runs this code in a folder."""
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # spinning threads cost much on busy cores
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **quiet},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """(the folder where all sections but Serving ran in one process, the lines that they printed)."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MOTIONDIRECTOR_REGISTRY", raising=False)
        code = "\n".join(code for title, code in snippets().items() if title != "Serving")
        return folder, python(code, folder).splitlines()


def publish_empty(name: str, folder: Path) -> None:
    """Publish an adapter that changes nothing into the folder's default registry."""
    foundation = md.load_foundation(device="cpu")
    with foundation.temporary_bank({"temporal": 1}, 1) as bank:
        saved = save_adapter(
            folder / "empty", Adapter("temporal", 1, bank.extract("temporal", 1)), foundation
        )
    md.open_registry(folder / DEFAULT_REGISTRY).publish(name, folder / "empty", metadata=dict(saved.metadata))


@pytest.mark.cluster
def test_the_snippets_of_the_guide_run_in_one_process(story):
    folder, lines = story
    assert list(snippets()) == [
        "A whole story",
        "Many concepts",
        "Serving",
        "The model itself",
        "Two motions in one frame",
        "An appearance, and a mix",
    ]
    assert lines[0].startswith("clips/orbit-000.mp4 a ")
    assert lines[1] == "2 clips of 8x64x64 (frames, height, width) for sprites"
    assert lines[2].startswith("orbit@1 ")
    assert lines[3] == "orbit@1, seed 7, 2 steps, 64x64, 8 frames (8, 64, 64, 3)"
    assert lines[4].endswith("runs/evaluate/orbit-1/index.html")
    assert lines[5].startswith("orbit 1 ")
    assert lines[6] == "{'orbit': 'orbit@2'} {}"
    assert lines[7:] == [
        "sprites (8, 64, 64, 3)",
        "orbit@1 + orbit@2, seed 7, 2 steps, 64x64, 8 frames",
        "orbit@2 + look@1, seed 7, 2 steps, 64x64, 8 frames",
    ]
    assert (folder / "orbit.mp4").is_file()


@pytest.mark.cluster
@pytest.mark.slow
def test_the_server_of_the_guide_answers_and_stops(tmp_path):
    publish_empty("orbit", tmp_path)
    told = python(f"import motiondirector as md\n{snippets()['Serving']}", tmp_path)
    wanted = r"http://127.0.0.1:\d+ foundation:orbit@1, seed \d+, 2 steps, 64x64, 8 frames\n"
    assert re.match(wanted, told)  # Ray may add lines of its own


def test_nothing_heavy_is_imported_before_a_function_is_used(tmp_path):
    code = """
import sys
import motiondirector as md
light = set(sys.modules)
configurations = [getattr(md, name)() for name in md.__all__ if name.endswith("Config")]
print(sorted({"torch", "ray", "numpy", "diffusers"} & set(sys.modules)), "pydantic" in light, len(configurations))
"""
    assert python(code, tmp_path) == "[] False 8\n"


def test_every_name_is_there_with_types_and_a_docstring():
    functions = [name for name in md.__all__ if not name.endswith("Config")]
    assert len(functions) == 10
    guide = (ROOT / "docs" / "python.md").read_text()
    for name in md.__all__:
        assert name in dir(md)
        assert getattr(md, name).__doc__, name
        assert name in guide
    for name in functions:
        signature = inspect.signature(getattr(md, name))
        assert signature.return_annotation is not inspect.Signature.empty, name
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name
    declared = re.findall(r"import (\w+) as \1", (ROOT / "motiondirector" / "__init__.py").read_text())
    assert sorted(declared) == sorted(md.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        md.nothing  # noqa: B018
