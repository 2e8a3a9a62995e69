"""`motiondirector doctor` as a whole, on this machine."""

import json
import uuid

import pytest

from infra.storage import open_storage

pytestmark = pytest.mark.cluster


def test_it_passes_here_and_says_so_in_json(run, s3):
    uri = f"{s3.uri}/{uuid.uuid4().hex}"
    code, out, _ = run("doctor", "--storage", uri, "--foundation", "tiny-random:unet3d", "--json")
    report = json.loads(out)
    failed = [check for check in report["checks"] if check["status"] == "fail"]
    assert failed == []
    assert code == 0
    names = {check["name"] for check in report["checks"]}
    assert {
        "python",
        "torch",
        "datasets",
        "cpu",
        "compiler",
        "av",
        "decord",
        "shared memory",
        "ray",
        "storage",
    } <= names
    assert list(open_storage(uri).list()) == []


def test_a_failure_is_shown_with_its_remedy_and_exit_code_1(run, s3, monkeypatch):
    from motiondirector.doctor import checks as doctor

    monkeypatch.setattr(doctor, "check_ray", lambda address: [])  # tried above
    monkeypatch.setattr(doctor, "check_deepspeed", lambda: [])
    code, out, _ = run("doctor", "--storage", "s3://no-such-bucket", "--foundation", "/no/such/model")
    assert code == 1
    lines = out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("fail  storage"))
    assert lines[at + 1].strip() == "-> create it or check the URI."
    assert any(line.startswith("fail  foundation") for line in lines)
    assert lines[-1].endswith("2 fail")
