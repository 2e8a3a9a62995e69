"""A whole training job: clips in, a published version out.

    run_job(Job(concept="orbit", data="clips", run_dir="runs/orbit"), {"steps": 200})

Read clips -> load the foundation, while Ray starts -> prepare latents -> train on Ray -> adapter file and samples ->
registry. Everything about the run lies in one folder or prefix:

    <run>/config.yaml      the resolved settings; `motiondirector train --config` repeats the run
    <run>/run.json         what the settings were applied to: fingerprint, hash of the data, the run's id
    <run>/train/           checkpoints (training/ray_train.py)
    <run>/samples/         mp4s and contact sheets;  <run>/tensorboard/  scalars and sheets
    <run>/adapter/         what was published;       <run>/result.json   where it was published

Started again in the same folder, a run goes on where it stopped; a finished one answers what it published. With more
`steps` it goes on from its last checkpoint, as if it had been planned so, and publishes the next version.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.errors import ConceptError, Conflict, NotFound
from infra.paths import expanded
from infra.registry import Registry, Version, check_concept_name, open_registry
from infra.rows import NOT_YAML
from infra.storage import ObjectNotFound, Storage, open_storage
from infra.stored import ConceptName, HexId, Sha256, VersionRef, convert, damaged, parse_object
from models.dtypes import DTYPES
from training.config import CHANGEABLE, TrainConfig, make_config, resolve, sampled_paths

if TYPE_CHECKING:
    from datasets.clips import Clip, ClipFacts
    from datasets.latents import CachedClip
    from datasets.parts import Pace, Part
    from models.foundation import Foundation
    from models.sizes import Bucket, Sizes

CONFIG, RECORD, RESULT = "config.yaml", "run.json", "result.json"


@dataclass(frozen=True)
class Job:
    """What is trained on what, and where the results go. The settings are a `TrainConfig`."""

    concept: str
    data: str  # URI of a clip set
    run_dir: str  # folder or URI of the run
    registry: str  # URI
    foundation: str | None = None
    address: str | None = None  # of a Ray cluster; None starts one here
    publish_as: str | None = None  # another name for what comes of it, to compare methods on the same clips

    @property
    def name(self) -> str:
        """The concept that the version is published under."""
        return self.publish_as or self.concept


class Watcher:
    """Is told what a job does. This one looks away; the command line's shows it."""

    def stage(self, text: str) -> None:
        """The next part of the job begins."""

    def passed(self, text: str, seconds: float) -> None:
        """A part is done."""

    def note(self, text: str) -> None:
        """Something to know about what is learned: a part of a clip or of a caption that is not."""

    def prepared(self, done: int, total: int) -> None:
        """So many clips have their latents."""

    def started(self, step: int, steps: int, workers: int, device: str) -> None:
        """Workers train from `step` on (again, after one was lost)."""

    def stepped(self, report: Mapping[str, Any]) -> None:
        """A step was done (`training.loop.StepReport` as a mapping)."""

    def sampled(self, step: int, keys: Sequence[str]) -> None:
        """Sample videos of a step are in the run's storage; the last key is their contact sheet."""


def run_job(job: Job, given: Mapping[str, Any], watcher: Watcher | None = None) -> Version:
    """Train and publish, or go on with what was begun.

    Args:
        given: settings from the command line and its YAML file; others come from the foundation or the defaults.

    Raises:
        UserError: in one sentence, whatever was given wrong.
        KeyboardInterrupt: Ctrl-C; nothing is lost but the steps since the last checkpoint.
    """
    from training.tensorboard import TensorBoard

    watcher = watcher or Watcher()
    check_concept_name(job.concept)
    check_concept_name(job.name)
    make_config(dict(given))  # what is wrong in itself is said before anything is loaded
    run, registry = open_storage(job.run_dir), open_registry(job.registry)
    done = finished(run, registry)
    with part(watcher, "reading clips"):
        clips = read_concept(job)
    with part(watcher, "finding the foundation"):
        config = check_before_loading(job, given, clips)
    with ExitStack() as stack:
        if done is None:
            foundation, config = load_while_ray_starts(job, given, config, len(clips), watcher, stack)
        else:  # there may be nothing to train
            foundation, config = load_shown(job, given, len(clips), watcher)
        bucket, parts = learned_parts(config, foundation, clips)
        if len(parts) > len(clips):  # windows of a long clip are several clips
            config = resolve(dict(given), foundation.recommended, len(parts))
        config = config.model_copy(
            update={"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
        )
        for remark in remarks_on(parts, foundation, config):
            watcher.note(remark)
        card = Card.of(job, config, foundation, parts)
        card.check(run)
        if done is not None and config.steps <= steps_of(done, config):
            watcher.stage(f"finished before, as {done.ref}")
            return done
        with part(watcher, "preparing latents"):
            cached = prepare_latents(job, clips, foundation, bucket, watcher, pace_of(config, foundation))
        if done is not None:
            start_ray(job, config, watcher, stack)
        board = stack.enter_context(TensorBoard(run))
        return _train_and_publish(job, config, foundation, cached, run, registry, card, watcher, board)


def check_before_loading(job: Job, given: Mapping[str, Any], clips: Sequence[Clip]) -> TrainConfig:
    """The settings, as far as they are known without the foundation's weights and libraries.

    Raises UserError where they do not suit it or the clips: before a mistake is said nobody waits for torch or Ray.
    """
    from models.locating import foundation_sizes, locate, read_recommended

    config = resolve(dict(given), read_recommended(locate(job.foundation)), len(clips))
    learned_parts(config, foundation_sizes(job.foundation), clips)
    return config


def load_while_ray_starts(
    job: Job,
    given: Mapping[str, Any],
    config: TrainConfig,
    clips: int,
    watcher: Watcher,
    stack: ExitStack,
) -> tuple[Foundation, TrainConfig]:
    """`load`, and Ray until the stack ends.

    Ray is started by the calling thread: its processes end with the thread that started them. Ctrl-C does not wait for the
    foundation.
    """
    loading: Future[tuple[Foundation, TrainConfig]] = Future()

    def work() -> None:
        try:
            loading.set_result(load_shown(job, given, clips, watcher))
        except BaseException as error:
            loading.set_exception(error)

    threading.Thread(target=work, name="foundation", daemon=True).start()
    try:
        start_ray(job, config, watcher, stack)
    except Exception:
        wait([loading])  # a process does not end well while libraries are loaded
        raise
    return loading.result()


def load_shown(
    job: Job, given: Mapping[str, Any], clips: int, watcher: Watcher
) -> tuple[Foundation, TrainConfig]:
    """`load` as a part of the job."""
    with part(watcher, "loading the foundation"):
        return load(job, given, clips)


def start_ray(job: Job, config: TrainConfig, watcher: Watcher, stack: ExitStack) -> None:
    """Have Ray until the stack ends, with room for the workers; one that starts here has processes for them soon.

    Raises UserError (422) where there is no room.
    """
    from infra.cluster import check_workers, has_gpus, ray_session, variables
    from training.ray_processes import ONE_MACHINE, begin_processes, session_variables

    with part(watcher, "starting Ray"):
        with variables(session_variables()):
            cluster = stack.enter_context(ray_session(job.address))
        use_gpu, workers = has_gpus(), config.worker_range[0]
        check_workers(workers, gpus=1 if use_gpu else 0)
        if cluster.started:
            stack.enter_context(variables(ONE_MACHINE))
            begin_processes(foundation_source(job.foundation), workers, use_gpu=use_gpu)


@contextmanager
def part(watcher: Watcher, text: str) -> Iterator[None]:
    """A part of a job: the watcher is told that it begins and, when it went well, how long it took."""
    watcher.stage(text)
    began = time.monotonic()
    yield
    watcher.passed(text, time.monotonic() - began)


def read_concept(job: Job) -> list[Clip]:
    """The concept's clips, each with a caption. Raises UserError."""
    from datasets.clips import read_clips

    clips = read_clips(job.data, job.concept)
    check_captions(clips)
    return clips


def check_captions(clips: Sequence[Clip | ClipFacts]) -> None:
    """Raises ConceptError ("caption_missing") for a clip that no words describe."""
    for clip in clips:
        if not clip.caption.strip():
            raise ConceptError(
                f"clip {clip.clip_id[:12]} of {clip.source_uri} has no caption; ingest it again with --caption TEXT.",
                code="caption_missing",
            )


def load(job: Job, given: Mapping[str, Any], clips: int) -> tuple[Foundation, TrainConfig]:
    """The settings for so many clips and, in their precision, the foundation: latents and samples are made here.

    At ZeRO 3 without its denoiser, which then need fit no device; samples are an actor's, where one has room for all of it.
    """
    from models.load import PARTS, load_foundation, locate, read_recommended
    from training.memory import explaining_memory

    config = resolve(dict(given), read_recommended(locate(job.foundation)), clips)
    parts = ("vae", "text") if config.zero == 3 else PARTS
    with explaining_memory(job.foundation, config.dtype, config.zero):
        return load_foundation(job.foundation, dtype=DTYPES[config.dtype], parts=parts), config


def bucket_of(config: TrainConfig, foundation: Foundation | Sizes) -> Bucket:
    """The size to train in: as set, else the foundation's own. Raises UserError when it cannot do that size."""
    from models.sizes import Bucket, Sizes

    own = foundation.defaults.bucket
    bucket = Bucket(config.frames or own.frames, config.height or own.height, config.width or own.width)
    (foundation if isinstance(foundation, Sizes) else foundation.sizes).check(bucket)
    return bucket


def pace_of(config: TrainConfig, foundation: Foundation | Sizes) -> Pace:
    """How much of longer and faster clips is learned: as set, else at the foundation's frames a second."""
    from datasets.parts import Pace

    return Pace(foundation.defaults.fps if config.fps is None else config.fps, config.windows)


def remarks_on(parts: Sequence[Part], foundation: Foundation, config: TrainConfig) -> list[str]:
    """What of the clips, of their captions and of the prompts is not learned or not read, in sentences."""
    from datasets.parts import remarks

    captions = dict.fromkeys(part.caption for part in parts)
    unread = [foundation.text_limit.warning(caption, f"caption {caption[:40]!r}...") for caption in captions]
    prompts = [
        foundation.text_limit.warning(prompt, f"sample prompt {prompt[:40]!r}...")
        for prompt in config.sample_prompts
    ]
    return [*remarks(parts), *(text for text in (*unread, *prompts) if text)]


def learned_parts(
    config: TrainConfig, foundation: Foundation | Sizes, clips: Sequence[Clip | ClipFacts]
) -> tuple[Bucket, list[Part]]:
    """The size to train in, and what of the clips is learned. Raises UserError where the clips do not suit."""
    from datasets.parts import all_parts

    bucket = bucket_of(config, foundation)
    return bucket, all_parts(clips, bucket, pace_of(config, foundation))


@dataclass(frozen=True)
class Card:
    """What identifies a run: its settings and what they are applied to. Lies in the run as config.yaml and run.json."""

    settings: dict[str, Any]
    facts: dict[str, str]

    @classmethod
    def of(cls, job: Job, config: TrainConfig, foundation: Foundation, clips: Sequence[Part]) -> Card:
        settings = {
            "concept": job.concept,
            "data": open_storage(job.data).uri,
            "foundation": foundation_source(job.foundation),
            **config.model_dump(mode="json"),
        }
        from training.adapters import data_sha256

        facts = {
            "concept": job.concept,
            "foundation_fingerprint": foundation.fingerprint,
            "data_sha256": data_sha256(clips),
        }
        return cls(settings, facts)

    def check(self, run: Storage) -> None:
        """Raises Conflict when the folder holds a run of another concept, foundation, data or settings."""
        try:
            record = asdict(read_record(run))
            before = read_settings(run)
        except ObjectNotFound:
            return
        now = self.settings
        differing = [f"{k} {record[k][:12]} (now {v[:12]})" for k, v in self.facts.items() if record[k] != v]
        differing += [
            f"{key} {before.get(key)} (now {now[key]})"
            for key, field in TrainConfig.model_fields.items()  # a setting that came later was at its default
            if key not in (*CHANGEABLE, "steps") and before.get(key, field.default) != now[key]
        ]
        begun = before.get("steps", TrainConfig.model_fields["steps"].default)
        if not isinstance(begun, int):
            differing.append(f"steps {str(begun)[:40]} (now {now['steps']})")
        if before.get("zero") and before.get("workers") != now["workers"]:
            differing.append(
                f"workers {before['workers']} (now {now['workers']}), which only zero 0 may change"
            )
        if differing:
            raise Conflict(
                f"{run.uri} holds a run with {differing[0]}; give another --run-dir for a new run, or its own "
                "settings to continue it.",
                code="other_run",
            )
        self._check_steps(run.uri, begun)

    def _check_steps(self, uri: str, before: int) -> None:
        """A run may go on beyond the steps it was begun with where that changes none of those it has done."""
        steps, schedule = self.settings["steps"], self.settings["schedule"]
        if steps < before:
            reason = (
                f"a run of {before} steps, more than {steps}; give {before} to continue it, more to go on from its last "
                "checkpoint, or another --run-dir for a new run."
            )
        elif steps > before and schedule != "constant":
            reason = (
                f"a run whose {schedule} schedule ends at 0 after {before} steps, so its steps are not those of a run of "
                f"{steps}; give another --run-dir for a new run (with --schedule constant a run can go on)."
            )
        else:
            return
        raise Conflict(f"{uri} holds {reason}", code="other_run")

    def put(self, run: Storage) -> RunRecord:
        """Begin the run's folder, or go on in it."""
        header = "# A training run, resolved. To repeat it: motiondirector train --config THIS_FILE --run-dir ELSEWHERE\n"
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        run.put(CONFIG, (header + text).encode())
        run.put_if_absent(RECORD, json.dumps({**self.facts, "id": uuid.uuid4().hex}, indent=2).encode())
        return read_record(run)


@dataclass(frozen=True)
class RunRecord:
    """run.json: what the settings are applied to, and the run's id, under which it publishes once."""

    concept: ConceptName
    foundation_fingerprint: Sha256
    data_sha256: Sha256
    id: HexId


@dataclass(frozen=True)
class Published:
    """result.json: where the run's adapter is."""

    registry: str  # URI
    version: VersionRef


DAMAGED = "restore it from a copy, or give another --run-dir for a new run"


def read_record(run: Storage) -> RunRecord:
    """run.json. Raises ObjectNotFound, or DamagedData when it is damaged."""
    return parse_object(RunRecord, run.get(RECORD), f"{RECORD} of {run.uri}", DAMAGED)


def read_settings(run: Storage) -> dict[str, Any]:
    """config.yaml. Raises ObjectNotFound, or DamagedData when it is damaged."""
    body = run.get(CONFIG)
    try:
        return convert(dict[str, Any], yaml.safe_load(body))
    except NOT_YAML as error:  # Damaged among them
        reason = " ".join(str(error).split())[:200]
        raise damaged(f"{CONFIG} of {run.uri}", reason, DAMAGED) from None


def foundation_source(source: str | None) -> str | None:
    """A local folder as an absolute path, for workers that stand elsewhere; an id as it is."""
    if source and not source.startswith("tiny-random:") and expanded(source).exists():
        return str(expanded(source).resolve())
    return source


def prepare_latents(
    job: Job,
    clips: Sequence[Clip],
    foundation: Foundation,
    bucket: Bucket,
    watcher: Watcher,
    pace: Pace | None = None,
) -> list[CachedClip]:
    """Latents and text of what is learned of every clip, computed or found beside the clips."""
    from datasets.latents import LatentCache, prepare

    cache = LatentCache(open_storage(job.data))
    return prepare(clips, foundation, bucket, cache, pace=pace, on_progress=watcher.prepared)


def _train_and_publish(
    job: Job,
    config: TrainConfig,
    foundation: Foundation,
    cached: list[CachedClip],
    run: Storage,
    registry: Registry,
    card: Card,
    watcher: Watcher,
    board: Any,
) -> Version:
    from infra.cluster import check_workers, has_gpus
    from training.metrics import EndMetrics
    from training.ray_train import STARTING_WORKERS, Task, fit
    from training.samples import Rendering
    from training.shown import harmless

    prompts = list(config.sample_prompts) or [cached[0].caption]
    task = Task(
        concept=job.concept,
        foundation=foundation_source(job.foundation),
        fingerprint=foundation.fingerprint,
        data_sha256=card.facts["data_sha256"],
        config=config,
        clips=cached,
    )
    use_gpu = has_gpus()
    check_workers(config.worker_range[0], gpus=1 if use_gpu else 0)
    record = card.put(run)
    rendering = Rendering(task, run, foundation, prompts, record.id, use_gpu)

    def samples(step: int, keys: Sequence[str]) -> None:
        with harmless(f"the samples of step {step} are not shown"):
            board.sampled(step, keys)
            watcher.sampled(step, keys)

    began = time.monotonic()

    def on_event(event: dict[str, Any]) -> None:
        match event.pop("kind"):
            case "stage":
                watcher.stage(event["text"])
            case "part":  # without seconds: all since here
                seconds = event["seconds"]
                watcher.passed(event["text"], time.monotonic() - began if seconds is None else seconds)
            case "start":
                watcher.started(**event)
            case "step":
                board.stepped(event)
                watcher.stepped(event)
            case "sample":
                rendering.submit(event["step"], event["tensors"])
        for step, keys in rendering.ready():
            samples(step, keys)

    watcher.stage(STARTING_WORKERS)
    with fit(task, run, use_gpu=use_gpu, on_event=on_event) as finished_run:
        with part(watcher, "rendering samples"):
            keys = rendering.final(finished_run)
            for step, earlier in rendering.rest():
                samples(step, earlier)
            if keys:
                samples(finished_run.position["step"], keys)
        with part(watcher, "publishing"):
            version = publish(job, config, foundation, cached, run, registry, record, finished_run, keys)
        EndMetrics()(job.concept, "published")
        return version


def publish(
    job: Job,
    config: TrainConfig,
    foundation: Foundation,
    clips: Sequence[CachedClip],
    run: Storage,
    registry: Registry,
    record: RunRecord,
    finished_run: Any,
    samples: Sequence[str],
) -> Version:
    """The adapter file with all that is known about it, published once, and noted in the run."""
    from training.adapters import describe, write_adapters
    from training.checkpoint import read_slot

    position = finished_run.position
    metadata = describe(config, job.concept, clips, steps=position["step"])
    tensors: Any = {path: read_slot(finished_run.folder, path, 1) for path in sampled_paths(config)}
    with tempfile.TemporaryDirectory(prefix="motiondirector-adapter-") as temporary:
        folder = Path(temporary)
        written = write_adapters(folder, foundation, tensors, metadata)
        for key in samples:
            run.get_file(key, folder / key)
        run.get_file(CONFIG, folder / CONFIG)
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            run.put_file(f"adapter/{file.relative_to(folder).as_posix()}", file)
        rank = max(adapter.rank for adapter in written.values())
        described = {**metadata, "rank": rank, "foundation": foundation.name, "run": record.id}
        described["foundation_fingerprint"] = foundation.fingerprint
        version = registry.publish(
            job.name,
            folder,
            metadata=described,
            metrics=position["metrics"],
            once=f"{record.id}-{position['step']}",  # a run that went on publishes again
        )
    run.put(RESULT, json.dumps({"registry": registry.uri, "version": version.ref}, indent=2).encode())
    return version


def steps_of(version: Version, config: TrainConfig) -> int:
    """The steps that a version was trained for; those of its settings where it does not say."""
    steps = version.metadata.get("steps")
    return steps if isinstance(steps, int) else config.steps


def finished(run: Storage, registry: Registry) -> Version | None:
    """What the run published to this registry; None while it has not. Raises NotFound when that was removed."""
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
