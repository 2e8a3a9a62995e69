"""The front door itself: `--config` files, and an output that nobody reads to its end."""

import subprocess
import sys

import pytest

from motiondirector import cli


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"prompts: \xff", "byte 9 is not UTF-8"),
        (b"seed: 2023-99-99", "is not YAML: month must be in 1..12"),
        (b"seed: !foo 1", "is not YAML: could not determine a constructor"),
        (b"- 1", "contains a list"),
        (b"sead: 1", "unknown option sead"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_answered_in_one_sentence(run, tmp_path, content, says):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    code, _, err = run("sprites", "quality", "--config", file)
    assert code == 2
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_reader_that_stops_early_sees_no_traceback():
    command = [sys.executable, "-m", "motiondirector", "sprites", "list"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()  # as `| head -0` does
    assert child.stderr.read() == b""
    assert child.wait() == 1


def test_a_training_that_is_interrupted_says_how_to_go_on_and_ends_as_the_shell_expects(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.runs.run.run_job", interrupted)
    code, out, _ = run("train", "--concept", "orbit", "--data", "clips")
    assert code == 130
    assert "the same command continues from the last checkpoint" in out


def test_a_command_without_its_module_is_not_left_out_in_silence(monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", ("nothing",))
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        cli.build.__wrapped__()
