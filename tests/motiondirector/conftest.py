import sys

import pytest

from motiondirector.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("concepts", "list")` runs a command like a shell: (exit code, stdout, stderr)."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["motiondirector", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run_command
