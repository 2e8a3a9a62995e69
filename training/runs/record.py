"""The identity and the result of a run: config.yaml, run.json and result.json in its folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import yaml

from infra.errors import Conflict, NotFound
from infra.registry import Registry, Version
from infra.rows import NOT_YAML
from infra.storage import ObjectNotFound, Storage, open_storage
from infra.storage.stored import ConceptName, HexId, Sha256, VersionRef, convert, damaged, parse_object
from training.config import CHANGEABLE, TrainConfig, default_settings
from training.runs.inputs import foundation_source
from training.runs.job import Job

if TYPE_CHECKING:
    from datasets.clip_sets.parts import Part
    from models.foundations.base import Foundation

CONFIG, RECORD, RESULT = "config.yaml", "run.json", "result.json"
DAMAGED = "restore it from a copy, or give another --run-dir for a new run"


@dataclass(frozen=True)
class RunIdentity:
    """What identifies a run: its settings, foundation and data. Stored in the run as config.yaml and run.json."""

    settings: dict[str, Any]
    facts: dict[str, str]
    experts: bool = False  # whether the foundation has two, which learn one after the other

    @classmethod
    def of(cls, job: Job, config: TrainConfig, foundation: Foundation, clips: Sequence[Part]) -> RunIdentity:
        settings = {
            "concept": job.concept,
            "data": open_storage(job.data).uri,
            "foundation": foundation_source(job.foundation),
            **config.model_dump(mode="json"),
        }
        from training.described import data_sha256

        facts = {
            "concept": job.concept,
            "foundation_fingerprint": foundation.fingerprint,
            "data_sha256": data_sha256(clips),
        }
        return cls(settings, facts, foundation.boundary is not None and config.experts == "both")

    def check(self, run: Storage) -> None:
        """Raises Conflict if the folder holds a run with another concept, foundation, data or settings."""
        try:
            record = asdict(read_record(run))
            before = read_settings(run)
        except ObjectNotFound:
            return
        now, defaults = self.settings, default_settings()
        differing = [f"{k} {record[k][:12]} (now {v[:12]})" for k, v in self.facts.items() if record[k] != v]
        differing += [
            f"{key} {before.get(key)} (now {now[key]})"
            for key, default in defaults.items()  # a setting added later was at its default
            if key not in (*CHANGEABLE, "steps") and before.get(key, default) != now[key]
        ]
        begun = before.get("steps", defaults["steps"])
        if not isinstance(begun, int):
            differing.append(f"steps {str(begun)[:40]} (now {now['steps']})")
        if before.get("zero") and before.get("workers") != now["workers"]:
            differing.append(
                f"workers {before['workers']} (now {now['workers']}), which may change only with zero 0"
            )
        if differing:
            raise Conflict(
                f"{run.uri} holds a run with {differing[0]}; give another --run-dir for a new run, or the run's own "
                "settings to continue it.",
                code="other_run",
            )
        self._check_steps(run.uri, begun)

    def _check_steps(self, uri: str, before: int) -> None:
        """A run may be extended only if this changes none of the steps that it has done. Raises Conflict."""
        steps, schedule = self.settings["steps"], self.settings["schedule"]
        if steps < before:
            reason = (
                f"a run of {before} steps, more than {steps}; give --steps {before} to continue it, more steps to extend it, "
                "or another --run-dir for a new run."
            )
        elif steps > before and schedule != "constant":
            reason = (
                f"a run whose {schedule} schedule ends at 0 after {before} steps, so it cannot be extended to {steps}; give "
                "another --run-dir for a new run (a run with --schedule constant can be extended)."
            )
        elif steps > before and (shares := self._shares()):
            reason = (
                f"a run of {before} steps, divided by {' and '.join(shares)}, so {steps} steps would change what the first "
                "ones learned; give another --run-dir for a new run."
            )
        else:
            return
        raise Conflict(f"{uri} holds {reason}", code="other_run")

    def _shares(self) -> list[str]:
        """The settings that divide the run's steps into parts, each a share of all of them."""
        config = TrainConfig(**{name: self.settings[name] for name in TrainConfig.model_fields})
        parts = {"appearance_share": config.appearance_steps, "generated_share": config.generated_steps}
        if self.experts:
            parts["high_noise_share"] = 1
        return [name for name, steps in parts.items() if steps]

    def put(self, run: Storage) -> RunRecord:
        """Write the identity into the run's folder. Returns the record, of the run begun there earlier if there is one."""
        header = "# A training run, resolved. To repeat it: motiondirector train --config THIS_FILE --run-dir ELSEWHERE\n"
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        run.put(CONFIG, (header + text).encode())
        run.put_if_absent(RECORD, json.dumps({**self.facts, "id": uuid.uuid4().hex}, indent=2).encode())
        return read_record(run)


@dataclass(frozen=True)
class RunRecord:
    """run.json: the run's concept, foundation and data, and its id, under which it publishes once."""

    concept: ConceptName
    foundation_fingerprint: Sha256
    data_sha256: Sha256
    id: HexId


@dataclass(frozen=True)
class Published:
    """result.json: where the run's adapter is."""

    registry: str  # URI
    version: VersionRef


def read_record(run: Storage) -> RunRecord:
    """Read run.json. Raises ObjectNotFound, or DamagedData if it is damaged."""
    return parse_object(RunRecord, run.get(RECORD), f"{RECORD} of {run.uri}", DAMAGED)


def read_settings(run: Storage) -> dict[str, Any]:
    """Read config.yaml. Raises ObjectNotFound, or DamagedData if it is damaged."""
    body = run.get(CONFIG)
    try:
        return convert(dict[str, Any], yaml.safe_load(body))
    except NOT_YAML as error:  # Damaged among them
        reason = " ".join(str(error).split())[:200]
        raise damaged(f"{CONFIG} of {run.uri}", reason, DAMAGED) from None


def steps_of(version: Version, config: TrainConfig) -> int:
    """The number of steps that a version was trained for; if its metadata has none, that of its settings."""
    steps = version.metadata.get("steps")
    return steps if isinstance(steps, int) else config.steps


def finished(run: Storage, registry: Registry) -> Version | None:
    """The version that the run published to this registry; None if there is none. Raises NotFound if it was removed."""
    try:
        body = run.get(RESULT)
    except ObjectNotFound:
        return None
    result = parse_object(Published, body, f"{RESULT} of {run.uri}", DAMAGED)
    if result.registry != registry.uri:
        return None
    try:
        return registry.resolve(result.version)
    except NotFound as error:
        raise error.reworded(
            f"{run.uri} holds a finished run whose {result.version} is no longer in {registry.uri}; give another "
            "--run-dir to train it again."
        ) from None
