"""The image holds what the commands need and nothing else. Read, not built: there is no Docker where tests run."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {
    pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
}


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory):
    copy = tmp_path_factory.mktemp("docker") / "Dockerfile"  # the parser may write
    copy.write_text((ROOT / "infra" / "docker" / "Dockerfile").read_text())
    return DockerfileParser(str(copy))


def instructions(dockerfile, name):
    return [line["value"] for line in dockerfile.structure if line["instruction"] == name]


def copied(dockerfile):
    """What is copied from this repository."""
    lines = [shlex.split(value) for value in instructions(dockerfile, "COPY")]
    return [source for words in lines if not words[0].startswith("--from") for source in words[:-1]]


def test_bases_are_pinned_and_each_variant_has_its_own(dockerfile):
    stages = [value.split(" AS ") for value in instructions(dockerfile, "FROM")]
    images = {name: image for image, name in stages}
    assert set(images) == {"build-cpu", "run-cpu", "build-cuda", "run-cuda", "build", "run"}
    assert images["build"] == "build-${VARIANT}"
    assert images["run"] == "run-${VARIANT}"
    for name in ("build-cpu", "run-cpu", "build-cuda", "run-cuda"):
        _, _, tag = images[name].partition(":")
        assert any(character.isdigit() for character in tag), images[name]
        assert "latest" not in tag
    assert "-devel-" in images["build-cuda"]  # its compiler
    assert "-base-" in images["run-cuda"]  # torch brings its libraries


def test_all_that_is_copied_is_here_and_all_packages_are_copied(dockerfile):
    sources = copied(dockerfile)
    assert all((ROOT / source).exists() for source in sources)
    assert set(sources) >= PACKAGES
    assert "assets" in sources  # the embedded foundation
    assert {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]} <= set(sources)


def test_dockerignore_sends_what_is_copied_and_nothing_else(dockerfile):
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied(dockerfile))


def test_versions_are_those_of_the_tests(dockerfile):
    installs = [run for run in instructions(dockerfile, "RUN") if "pip install" in run]
    for run in installs:
        assert "-c constraints.txt" in run or "--no-deps" in run, run
    (torch,) = [run for run in installs if "TORCH_INDEX" in run]
    assert "grep '^torch==' constraints.txt" in torch
    pin = subprocess.run(
        ["grep", "^torch==", ROOT / "constraints.txt"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert pin in PROJECT["project"]["dependencies"]


def test_the_list_of_dependencies_is_the_projects(dockerfile):
    (run,) = [run for run in instructions(dockerfile, "RUN") if "tomllib" in run]
    command = run.partition("> requirements.txt")[0]
    listed = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    extras = PROJECT["project"]["optional-dependencies"]["gpu"]
    wanted = [*PROJECT["project"]["dependencies"], *extras]
    assert listed == [line for line in wanted if not line.startswith("deepspeed")]


def test_deepspeeds_kernels_are_built_by_names_it_knows(dockerfile):
    import deepspeed

    builders = Path(deepspeed.__file__).parent / "ops" / "op_builder"

    def known(folder):
        return set(
            re.findall(r'BUILD_VAR = "(DS_BUILD_\w+)"', "".join(f.read_text() for f in folder.glob("*.py")))
        )

    (run,) = [run for run in instructions(dockerfile, "RUN") if "--no-binary deepspeed" in run]
    for_cuda, _, for_cpu = run.partition("else")
    for asked, there in ((for_cuda, known(builders)), (for_cpu, known(builders / "cpu"))):
        names = re.findall(r"(DS_BUILD_\w+)=1", asked)
        assert names
        assert set(names) <= there


def test_it_runs_the_same_command_as_one_machine_and_not_as_root(dockerfile):
    last = dockerfile.structure[[line["instruction"] for line in dockerfile.structure].index("USER") :]
    assert last[0]["value"] == "10001:10001"
    assert not any(line["instruction"] in ("RUN", "COPY", "ADD") for line in last)
    (entry,) = instructions(dockerfile, "ENTRYPOINT")
    assert entry == '["motiondirector"]'
    assert "motiondirector" in PROJECT["project"]["scripts"]
    final = instructions(dockerfile, "ENV")[-1]
    assert "PATH=/opt/venv/bin:" in final
