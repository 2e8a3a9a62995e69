"""--json: stdout is the answer, whatever libraries print."""

import json

import pytest

from motiondirector.output import only_answers, print_json


def test_with_json_what_libraries_print_is_on_stderr(capsys):
    with only_answers(["ingest", "clips", "--json"]):
        print("[2026-01-01] [WARNING] a library's word")
        print_json({"caption": "Ärger"})
        print("another")
    print("after")
    out, err = capsys.readouterr()
    answer, end, after = out.partition("}\n")
    assert json.loads(answer + end) == {"caption": "Ärger"}
    assert after == "after\n"
    assert err == "[2026-01-01] [WARNING] a library's word\nanother\n"


def test_without_it_all_is_on_stdout(capsys):
    with only_answers(["ingest", "clips"]):
        print("a word")
        print_json([1])
    assert capsys.readouterr() == ("a word\n[\n  1\n]\n", "")


def test_after_a_failure_stdout_is_as_before(capsys):
    with pytest.raises(ValueError), only_answers(["--json"]):
        raise ValueError
    print_json(1)
    assert capsys.readouterr().out == "1\n"
