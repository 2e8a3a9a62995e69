"""The doctor tries each thing and names the remedy of what does not work."""

import os
import shutil
import subprocess
import sys
import uuid
from collections import namedtuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.paths import ROOT
from infra.storage import open_storage
from infra.storage.s3 import S3Storage
from motiondirector.doctor import checks as doctor
from motiondirector.doctor import probes


def only(checks):
    found = list(checks)
    assert len(found) == 1
    assert found[0].status == "ok" or found[0].remedy
    return found[0]


def test_every_dependency_of_the_project_is_looked_at():
    names = {check.name for check in doctor.check_packages()}
    for name in ("torch", "ray", "deepspeed", "diffusers", "peft", "boto3", "decord", "av"):
        assert name in names
    assert "pytest" not in names


@pytest.mark.parametrize(
    ("wanted", "status"), [("pip>1", "ok"), ("pip>9999", "warn"), ("no-such-package-at-all>=1", "fail")]
)
def test_a_package_is_compared_with_its_tested_range(monkeypatch, wanted, status):
    monkeypatch.setattr(doctor, "requirements", lambda: (SpecifierSet(), [Requirement(wanted)]))
    check = only(doctor.check_packages())
    assert check.status == status
    assert (wanted in check.remedy) == (status != "ok")


@pytest.mark.parametrize(("wanted", "status"), [(">=3.11", "ok"), ("<3", "fail")])
def test_python_is_compared_with_its_range(monkeypatch, wanted, status):
    monkeypatch.setattr(doctor, "requirements", lambda: (SpecifierSet(wanted), []))
    assert only(doctor.check_python()).status == status


def test_a_working_compiler_is_found_and_a_broken_one_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    if shutil.which("cc"):
        assert only(doctor.check_compiler()).status == "ok"
    for broken in ("/bin/false", "/no/such/compiler"):
        monkeypatch.setenv("CC", broken)
        assert only(doctor.check_compiler()).status == "warn"
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(doctor.check_compiler()).found.startswith("none")


@pytest.mark.parametrize(("free", "status"), [(50, "ok"), (5, "warn"), (1, "fail"), (20, "warn")])
def test_little_disk_is_told(monkeypatch, free, status):
    total = 1000 if free == 20 else 100
    usage = namedtuple("usage", "total used free")(total << 30, 0, free << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert {check.status for check in doctor.check_disk()} == {status}


def test_missing_shared_memory_is_told(tmp_path):
    assert only(doctor.check_shared_memory(tmp_path / "none")).status == "warn"


def test_the_codecs_that_the_project_needs_work():
    assert [(check.name, check.status) for check in probes.check_codecs()] == [("av", "ok"), ("decord", "ok")]


def test_the_devices_are_tried():
    names = {check.name: check for check in doctor.check_devices()}
    assert names["cpu"].found.endswith("bf16")


def test_a_failing_check_is_a_finding_and_not_a_crash():
    def broken():
        yield probes.Check("first", "ok", "")
        raise OSError("gone\nwrong")

    found = list(doctor.attempt("second", broken))
    assert [(check.name, check.status) for check in found] == [("first", "ok"), ("second", "fail")]
    assert found[1].found == "OSError: gone wrong"


def run_beside_a_foreign_datasets(tmp_path, *arguments):
    (tmp_path / "foreign" / "datasets").mkdir(parents=True)
    (tmp_path / "foreign" / "datasets" / "__init__.py").write_text("def load_dataset(): ...\n")
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "foreign"), root])}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=environment,
    )


def test_a_foreign_datasets_package_is_noticed(tmp_path):
    assert only(doctor.check_foreign_datasets()).status == "ok"
    code = "from motiondirector.doctor.checks import check_foreign_datasets as c; print(*c())"
    assert "status='fail'" in run_beside_a_foreign_datasets(tmp_path, "-c", code).stdout


def test_the_front_door_stops_at_a_foreign_datasets_package(tmp_path):
    done = run_beside_a_foreign_datasets(tmp_path, "-m", "motiondirector", "concepts", "list")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the package `datasets`")
    assert "pip uninstall datasets" in done.stderr


# --- storage ---------------------------------------------------------------------------------------------------


def test_a_good_storage_is_ok_and_left_as_it_was(storage):
    storage.put("mine", b"1")
    assert only(probes.check_storage(storage.uri)).status == "ok"
    assert [info.key for info in storage.list()] == ["mine"]


def test_folders_that_were_made_for_the_probe_go_again(tmp_path):
    (tmp_path / "empty").mkdir()
    assert only(probes.check_storage(str(tmp_path / "empty" / "a" / "b"))).status == "ok"
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_a_storage_that_ignores_conditions_fails(s3, monkeypatch):
    def write_whatever(self, key, data, **condition):
        self.put(key, data)
        return True

    monkeypatch.setattr(S3Storage, "put_when", write_whatever)
    uri = f"{s3.uri}/{uuid.uuid4().hex}"
    check = only(probes.check_storage(uri))
    assert check.status == "fail"
    assert "If-None-Match" in check.found
    assert "If-Match" in check.found
    assert list(open_storage(uri).list()) == []


def test_a_missing_bucket_fails_with_its_remedy(s3):
    check = only(doctor.attempt("storage", lambda: probes.check_storage("s3://no-such-bucket")))
    assert (check.status, check.remedy) == ("fail", "create it or check the URI.")
    assert "'no-such-bucket' does not exist" in check.found
