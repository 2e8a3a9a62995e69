"""A motion that somebody draws, by the commands that docs/results.md gives: render, ingest, train, evaluate."""

import json
from pathlib import Path

import pytest

from infra.registry import open_registry

HEART = Path(__file__).parents[2] / "docs" / "examples" / "heart.json"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_drawn_trajectory_goes_from_its_file_to_its_scores(run, tmp_path):
    clips, data, registry, out = (tmp_path / name for name in ("clips", "data", "registry", "out"))

    def done(*arguments):
        code, told, err = run(*arguments)
        assert code == 0, told + err
        return told

    drawn = ("--trajectory", HEART, "--appearances", 2, "--words", "draws a heart")
    done("sprites", "render", *drawn, "--to", clips)
    done("ingest", clips, "--captions", clips / "captions.csv", "--concept", "heart", "--to", data)
    of = ("--concept", "heart", "--registry", registry)
    done("train", *of, "--data", data, "--run-dir", tmp_path / "run", "--steps", 2)
    table = done("evaluate", *of, "--against", "base", "--seeds", 1, "--steps", 2, "--out", out)

    (version,) = open_registry(str(registry)).versions("heart")
    assert version.metadata["steps"] == 2
    report = json.loads((out / "report.json").read_text())
    assert list(report["contenders"]) == ["ours", "base"]
    fidelity = report["metrics"]["motion_fidelity"]
    assert fidelity["ceiling"] > 0.999  # both clips were drawn along the same way
    assert "against one another in motion fidelity" in " ".join(table.split())
    assert len(fidelity["scores"]["ours"]["values"]) == len(report["prompts"])
    assert (out / "index.html").is_file()
