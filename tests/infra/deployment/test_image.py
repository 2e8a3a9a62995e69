"""The image holds what the commands need and nothing else. Read, not built: there is no Docker where tests run."""

import hashlib
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "infra" / "docker"
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


def bases():
    """{(variant, stage): image} of infra/docker/bases."""
    lines = (DOCKER / "bases").read_text().splitlines()
    found = [line.split() for line in lines if not line.startswith("#")]
    return {(variant, stage): image for variant, stage, image in found}


def test_bases_are_named_with_their_versions_and_each_variant_has_its_own(dockerfile):
    images = bases()
    assert set(images) == {(variant, stage) for variant in ("cpu", "cuda") for stage in ("build", "run")}
    for image in images.values():
        _, _, tag = image.partition(":")
        assert any(character.isdigit() for character in tag), image
        assert "latest" not in tag
    assert "-devel-" in images["cuda", "build"]  # its compiler
    assert "-base-" in images["cuda", "run"]  # torch brings its libraries
    stages = [value.split(" AS ") for value in instructions(dockerfile, "FROM")]
    assert stages == [["${BUILD_BASE}", "build"], ["${RUN_BASE}", "run"]]
    given = instructions(dockerfile, "ARG")
    assert {"BUILD_BASE", "RUN_BASE"} <= set(given)  # without a default: nothing is built from a tag alone


@pytest.fixture
def scripts(tmp_path):
    """Copies of the scripts, with a `docker` that tells what it was asked, and answers a digest that the image decides."""
    for name in ("bases", "build.sh", "pin.sh"):
        shutil.copy(DOCKER / name, tmp_path)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        "#!/bin/bash\n"
        'if [ "$1" = buildx ]; then echo "$4" >> "$ASKED"; echo "${ANSWER:-sha256:$(echo "$4" | sha256sum | cut -d" " -f1)}"\n'
        'else printf "%s\\n" "$@"; fi\n'
    )
    docker.chmod(0o755)

    def run(script, *words, **environment):
        around = {"PATH": f"{docker.parent}:/usr/bin:/bin", "ASKED": str(tmp_path / "asked"), **environment}
        return subprocess.run([tmp_path / script, *words], env=around, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_an_image_is_built_from_bases_by_digest_or_not_at_all(scripts, tmp_path, variant):
    refused = scripts("build.sh", variant, "-t", "x", ".")
    assert refused.returncode != 0
    assert refused.stdout == ""  # docker was not called
    assert "run infra/docker/pin.sh once" in refused.stderr
    assert scripts("pin.sh").returncode == 0
    assert set((tmp_path / "asked").read_text().split()) == set(bases().values())
    told = scripts("build.sh", variant, "-t", "x", ".").stdout.split("\n")
    assert told[:3] == ["build", "-f", str(tmp_path / "Dockerfile")]
    assert told[-4:-1] == ["-t", "x", "."]
    named = dict(word.split("=") for word in told if "=" in word)
    assert named.pop("VARIANT") == variant
    for stage in ("build", "run"):
        image = bases()[variant, stage]
        digest = hashlib.sha256(f"{image}\n".encode()).hexdigest()
        assert named.pop(f"{stage.upper()}_BASE") == f"{image}@sha256:{digest}"
    assert named == {}


def test_what_is_no_digest_is_not_kept(scripts, tmp_path):
    assert scripts("pin.sh").returncode == 0
    kept = (tmp_path / "digests").read_text()
    for answer in ("sha256:abc", "ubuntu", "sha256:" + "z" * 64):
        done = scripts("pin.sh", ANSWER=answer)
        assert (done.returncode, "docker gave no digest for " in done.stderr) == (1, True)
        assert (tmp_path / "digests").read_text() == kept


def test_another_variant_is_refused(scripts):
    done = scripts("build.sh", "rocm", ".")
    assert done.returncode != 0
    assert "unknown variant rocm" in done.stderr


def test_the_repository_has_no_digest_that_nobody_looked_up(dockerfile):
    """They cannot be looked up where tests run; once somebody has, they are those of the bases."""
    if (DOCKER / "digests").exists():
        lines = [line.split() for line in (DOCKER / "digests").read_text().splitlines()]
        assert {image for image, _ in lines} == set(bases().values())
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for _, digest in lines)
    assert "@sha256:" not in (DOCKER / "Dockerfile").read_text() + (DOCKER / "bases").read_text()


def test_all_that_is_copied_is_here_and_all_packages_are_copied(dockerfile):
    sources = copied(dockerfile)
    assert all((ROOT / source).exists() for source in sources)
    assert set(sources) >= PACKAGES
    assert "assets" in sources  # the embedded foundation
    assert {"pyproject.toml", PROJECT["project"]["readme"]} <= set(sources)


def test_dockerignore_sends_what_is_copied_and_nothing_else(dockerfile):
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert lines[0] == "*"
    inside = {
        source for source in copied(dockerfile) if source.startswith("infra/")
    }  # of a folder that is sent
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(
        set(copied(dockerfile)) - inside
    )


def locked(name):
    """{package: (version, hashes)} of a lock."""
    text = (DOCKER / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            requirement, *hashes = line.split()
            package, version = requirement.split("==")
            found[package] = version, hashes
    return found


def pins():
    """{package: version} of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if "==" in line and line[0] != "#")
    }


def test_every_package_is_installed_by_its_hash(dockerfile):
    installs = [run for run in instructions(dockerfile, "RUN") if "pip install" in run]
    commands = re.findall(r"pip install[^;&]*", " ; ".join(installs))
    assert len(commands) == 4
    *of_packages, own = commands
    for command in of_packages:
        assert "--require-hashes" in command, command
        assert "--no-deps" in command, command
        assert ".lock" in command, command
    assert own.split() == ["pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]


@pytest.mark.parametrize("name", ["requirements.lock", "deepspeed.lock"])
def test_a_lock_has_pins_and_hashes_and_no_address(name):
    packages = locked(name)
    assert packages
    for package, (version, hashes) in packages.items():
        assert re.fullmatch(r"[0-9][0-9a-z.+]*", version), package
        assert hashes, package
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes), package
    text = (DOCKER / name).read_text()
    assert "://" not in text
    assert "index-url" not in text


def test_the_locks_are_of_the_versions_of_the_tests():
    packages = locked("requirements.lock") | locked("deepspeed.lock")
    known = pins()
    differing = {
        name: (version, known[name])
        for name, (version, _) in packages.items()
        if name in known and version != known[name]
    }
    assert differing == {}  # else: make lock


def test_the_locks_hold_all_that_the_project_needs_and_nothing_of_the_demo():
    packages = locked("requirements.lock") | locked("deepspeed.lock")
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["gpu"]]
    for requirement in map(Requirement, wanted):
        version, _ = packages[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement  # else: make lock
    assert "moto" not in packages
    assert {"triton", "nvidia-cublas", "cuda-toolkit"} <= set(packages)  # of torch for CUDA
    assert {"setuptools", "wheel"} <= set(packages)  # they build DeepSpeed
    assert "deepspeed" not in locked("requirements.lock")  # it is built once torch is there


def test_without_cuda_the_lock_is_the_same_but_for_torch_and_its_libraries(dockerfile):
    (run,) = [run for run in instructions(dockerfile, "RUN") if "awk" in run]
    (program,) = re.findall(r"awk '([^']*)'", run)
    kept = subprocess.run(
        ["awk", program, DOCKER / "requirements.lock"], capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", " ")
    names = {line.split("==")[0] for line in kept.splitlines()}
    left_out = set(locked("requirements.lock")) - names
    assert {"torch", "triton", "nvidia-cudnn-cu13"} <= left_out
    assert all(re.fullmatch("torch|triton|nvidia-.*|cuda-.*", name) for name in left_out)
    assert all("--hash=sha256:" in line for line in kept.splitlines())


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
