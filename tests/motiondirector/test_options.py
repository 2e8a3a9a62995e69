"""Options that are the fields of a configuration class; one set of words for a precision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from infra.errors import UserError
from infra.setting import configured as configuration
from infra.setting import option_name
from models.dtypes import DTYPES, parse_dtype
from motiondirector.api import serve as api
from motiondirector.api.generate import GenerateConfig
from motiondirector.api.ingest import IngestConfig
from motiondirector.api.mix import MixConfig
from motiondirector.batch.config import BatchConfig
from motiondirector.batch.run import BatchResult
from motiondirector.cli import build
from motiondirector.commands import serve as command
from motiondirector.judging.config import BenchmarkConfig, EvaluationConfig
from motiondirector.judging.contenders import check_trains
from motiondirector.sprites.config import PretrainConfig, RenderConfig, TraceConfig
from motiondirector.study.config import StudyConfig
from serving.config import ServeConfig
from training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--foundation", "tiny-random:unet3d"]
# Who may ask, and secrets: where they are given instead.
ELSEWHERE = {
    "api_keys": "--api-key-file",
    "api_key_hashes": "--api-key-file",
    "webhook_secret": "MOTIONDIRECTOR_WEBHOOK_SECRET",
    "session_secret": "MOTIONDIRECTOR_SESSION_SECRET",
}


# Every command whose options are a configuration's fields.
CONFIGURED = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "train-batch": BatchConfig,
    "generate": GenerateConfig,
    "mix": MixConfig,
    "serve": ServeConfig,
    "evaluate": EvaluationConfig,
    "benchmark ucf-sports": BenchmarkConfig,
    "benchmark loveu-tgve": BenchmarkConfig,
    "study": StudyConfig,
    "sprites render": RenderConfig,
    "sprites trace": TraceConfig,
    "sprites pretrain": PretrainConfig,
}


def parameters(name: str) -> dict[str, Any]:
    command: Any = get_command(build())
    for word in name.split():
        command = command.commands[word]
    return {parameter.name: parameter for parameter in command.params}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What `serve` would serve with, without serving."""
    monkeypatch.delenv("MOTIONDIRECTOR_API_KEY", raising=False)
    monkeypatch.delenv("MOTIONDIRECTOR_WEBHOOK_SECRET", raising=False)
    monkeypatch.chdir(tmp_path)

    class Made(Exception):
        pass

    made_by = api.for_every_process

    def stop(config: ServeConfig) -> None:
        raise Made(made_by(config))

    monkeypatch.setattr(api, "for_every_process", stop)
    monkeypatch.setattr(command, "check_database", lambda config: None)

    def run(*arguments: str | Path) -> ServeConfig:
        with pytest.raises(Made) as caught:
            build()(["serve", "--port", "0", *map(str, arguments)], standalone_mode=False)
        made: ServeConfig = caught.value.args[0]
        return made

    return run


def test_serve_warns_when_the_registry_folder_does_not_exist(configured, tmp_path, capsys):
    configured(*TINY, "--registry", tmp_path / "registry")
    assert f"--registry {tmp_path / 'registry'} does not exist" in capsys.readouterr().err
    (tmp_path / "registry").mkdir()
    configured(*TINY, "--registry", tmp_path / "registry")
    assert "does not exist" not in capsys.readouterr().err


@pytest.mark.parametrize(("name", "config"), CONFIGURED.items())
def test_every_field_is_an_option_with_its_description_default_and_bounds(name, config):
    known = parameters(name)
    assert "config" in known, "its options may stand in a file"
    for field_name, field in config.model_fields.items():
        if field_name in ELSEWHERE and config is ServeConfig:
            assert field_name not in known, "secrets are seen in the process list"
            continue
        option = known[field_name]
        assert option_name(config, field_name) in option.opts
        if field_name == "registry":  # every command's
            continue
        assert option.help.startswith(field.description)
        assert option.default is None, "what is not given is not handed on"
        if field.default not in (None, (), [], {}):
            assert option.show_default == str(field.default)
        for constraint in field.metadata:
            for bound in ("ge", "gt", "le", "lt"):
                if (value := getattr(constraint, bound, None)) is not None:
                    assert str(value) in option.help.removeprefix(field.description)


def test_settings_of_a_batch_from_a_file_are_a_mapping_or_as_on_the_command_line(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(
        "motiondirector.batch.run.train_batch",
        lambda manifest, config, **_: made.append(config) or BatchResult("b", None),
    )
    file = tmp_path / "batch.yaml"
    for written in ("settings: {steps: 3, dtype: bf16}", "setting: [steps=3, dtype=bf16]"):
        file.write_text(f"{written}\nlanes: auto\nevaluate: false\ncpus_per_lane: 2\n")
        build()(
            ["train-batch", "b.jsonl", "--config", str(file), "--dry-run", "--lanes", "3"],
            standalone_mode=False,
        )
    expected = BatchConfig(settings={"steps": 3, "dtype": "bf16"}, lanes=3, evaluate=False, cpus_per_lane=2.0)
    assert made == [expected, expected]


def test_what_is_no_option_of_serve_is_told_where_it_is():
    assert "api_key_file" in parameters("serve")
    commands: Any = get_command(build())
    assert ELSEWHERE["webhook_secret"] in commands.commands["serve"].help


def test_serve_without_options_has_the_defaults_and_places_that_every_process_finds(configured, tmp_path):
    made = configured(*TINY)
    assert made == ServeConfig(
        foundation=TINY[1],
        registry=str(tmp_path / "runs/registry"),
        data_dir=str(tmp_path / "runs/serve"),
    )
    assert not {"slots", "spatial_slots", "rank"} & made.model_fields_set, "they follow --slot-memory"


GIVEN: dict[str, Any] = {
    "foundation": "tiny-random:unet3d",
    "device": "cpu",
    "dtype": "bf16",
    "quantize": "int8",
    "offload": "encoders",
    "compile": True,
    "warm_sizes": ["8x32x32", "4x64x48"],
    "threads": 3,
    "adapter_layers": "all",
    "slots": 5,
    "spatial_slots": 2,
    "rank": 16,
    "slot_memory": 1_000_000,
    "host_memory": 2_000_000,
    "disk_cache": 3_000_000,
    "max_batch": 4,
    "batch_memory": 4_000_000,
    "max_pixels": 5_000_000,
    "replicas": 2,
    "max_replicas": 6,
    "target_seconds": 12.5,
    "engine_cpus": 0.5,
    "engine_gpus": 0.25,
    "data_dir": "/data",
    "database_file": "/secrets/database",
    "results": "s3://bucket/results",
    "results_ttl": 60.5,
    "job_ttl": 90.5,
    "max_queue": 7,
    "max_streams": 9,
    "max_bodies": 11,
    "webhook_networks": ["10.1.0.0/16", "10.2.0.0/16"],
    "studio": False,
    "train_lanes": 2,
    "max_train_steps": 300,
    "max_trainings": 4,
    "reference_steps": 40,
    "max_file_bytes": 6_000_000,
    "files_bytes": 7_000_000,
    "files_count": 8,
    "registry": "/registry",
}


def as_options(given: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in given.items():
        option = option_name(ServeConfig, name)
        if value is True:
            words.append(option)
            continue
        if value is False:
            words.append(option.replace("--", "--no-", 1))
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [option, str(one)]
    return words


def test_every_field_arrives_from_the_command_line_and_from_a_file(configured, tmp_path):
    assert set(GIVEN) == set(ServeConfig.model_fields) - {*ELSEWHERE, "database"}  # database or database_file
    assert not {n for n, v in GIVEN.items() if v == ServeConfig.model_fields[n].default}
    expected = ServeConfig(**GIVEN)
    assert configured(*as_options(GIVEN)) == expected
    file = tmp_path / "fields.yaml"
    file.write_text(yaml.safe_dump(GIVEN))
    assert configured("--config", file) == expected
    options = {option_name(ServeConfig, name).removeprefix("--"): value for name, value in GIVEN.items()}
    file.write_text(yaml.safe_dump(options))
    assert configured("--config", file) == expected


def test_the_command_line_wins_over_the_file(configured, tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("foundation: tiny-random:unet3d\ngpus: 2\nmax_streams: 3\nwarm-size: [8x32x32]\n")
    made = configured("--config", file, "--gpus", "1", "--warm-size", "4x64x48", "--no-compile")
    assert (made.engine_gpus, made.max_streams, made.warm_sizes) == (1, 3, ["4x64x48"])
    assert made.compile is False


def test_one_option_by_two_names_in_a_file_is_refused(configured, tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("engine_gpus: 2\ngpus: 1\n")
    with pytest.raises(UserError, match="gpus and engine_gpus are the same option"):
        build()(["serve", "--config", str(file)], standalone_mode=False)


def test_a_job_may_be_kept_for_ever(configured):
    assert configured(*TINY, "--job-ttl", "forever").job_ttl is None


@pytest.mark.parametrize(("short", "long"), DTYPES.items())
def test_a_precision_has_the_same_words_everywhere(configured, short, long):
    for word in (short, long):
        assert parse_dtype(word) == short
        assert configured(*TINY, "--dtype", word).dtype == short
        if short == "fp16":
            with pytest.raises(UserError, match="dtype"):
                check_trains(word)
            continue
        check_trains(word)
        assert TrainConfig(dtype=word).dtype == short
    with pytest.raises(UserError, match="dtype 'half' is not known; expected one of fp32, bf16, fp16"):
        check_trains("half")


def test_every_command_with_a_precision_shows_the_same_words():
    commands: Any = get_command(build())
    groups = {**commands.commands, **commands.commands["benchmark"].commands}
    shown = {
        name: parameter.metavar
        for name, one in groups.items()
        for parameter in one.params
        if parameter.name == "dtype"
    }
    assert set(shown) == {"train", "serve", "generate", "mix", "evaluate", "ucf-sports", "loveu-tgve"}
    assert {word for metavar in shown.values() for word in metavar.split("|")} == set(DTYPES)


def test_the_guides_name_options_that_there_are():
    guide = (ROOT / "docs" / "serving.md").read_text()
    known = {
        option
        for name in ("serve", "generate", "mix")
        for p in parameters(name).values()
        for option in (*p.opts, *p.secondary_opts)
    }
    named = set(re.findall(r"--[a-z][a-z-]+", guide))
    assert len(named) > 10
    assert named - known - {"--help"} == set()


def test_the_guides_use_the_short_words_of_a_precision():
    for guide in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        words = re.findall(r"(?:--dtype |\bdtype=)(\w+)", guide.read_text())
        assert set(words) <= set(DTYPES), guide


def test_the_scale_of_an_evaluation_has_the_bounds_of_a_requests():
    with pytest.raises(UserError, match=r"--scale 9: .* less than or equal to 4"):
        configuration(EvaluationConfig, {"scale": 9})
