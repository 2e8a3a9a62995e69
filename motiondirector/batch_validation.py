"""What `train-batch --evaluate` does to each version that is published: `evaluate` in small, kept in the registry.

The front door gives it to the batch (training/batch/validation.py), which knows no evaluation. Scores, page, report and
sample videos lie in the registry's objects and are named in the version's metrics, under `evaluation`:
`concepts show` prints the scores, `concepts pull --samples` fetches the files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import UserError

if TYPE_CHECKING:
    from evaluation.prompts import Prompt
    from infra.registry import Registry, Version
    from models.foundation import Foundation

PROMPTS = 4  # held-out appearances, where no prompts are given and the clips are sprites
OPEN = 4  # open prompts, which name the subject's class alone
BATCH = 4  # videos made at once
FILES = "files"  # in the metrics: {name: {"sha256", "size"}}


def kept_files(version: Version) -> dict[str, dict[str, Any]]:
    """Page, report and videos that an evaluation of the version left in the registry: {name: {"sha256", "size"}}."""
    evaluated = version.metrics.get("evaluation")
    return dict(evaluated.get(FILES) or {}) if isinstance(evaluated, dict) else {}


@dataclass
class Evaluation:
    """Called with a version: generates, measures, and adds what it finds to the version. Picklable; loads late.

    Args:
        registry: URI.
        prompts: of every concept, or of the one they name. A concept without takes its own `sample_prompts`, else
            held-out appearances of the sprite world, or the captions of clips that are no sprites.
        seeds: videos of each prompt, from the seeds 1, 2, ...
        steps: of denoising; None takes the foundation's.
        device: None takes a GPU if there is one.
        clip, pickscore: weights of the metrics that need them.
    """

    registry: str
    prompts: tuple[Prompt, ...] = ()
    seeds: int = 1
    steps: int | None = None
    device: str | None = None
    clip: str | None = None
    pickscore: str | None = None
    _loaded: Any = field(default=None, init=False, repr=False, compare=False)
    _base: Any = field(default=None, init=False, repr=False, compare=False)  # folder of this process's life

    def __call__(
        self, version: Version, on_progress: Callable[[str, int, int], None]
    ) -> dict[str, float | None]:
        """The means of the metrics, by title.

        Raises:
            UserError: clips that are gone, a foundation that cannot be loaded or does not suit, a storage that is away.
        """
        from infra.registry import open_registry
        from motiondirector.judging import REPORT

        registry = open_registry(self.registry)
        folder = Path(tempfile.mkdtemp(prefix="motiondirector-validation-"))
        try:
            told = self._judge(registry, version, folder, on_progress)
            assert (folder / REPORT).is_file()
            self._publish(registry, version, told, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {
            metric["title"]: metric["scores"]["ours"]["mean"]
            for metric in told["metrics"].values()
            if metric["scores"]["ours"]["mean"] is not None
        }

    def _judge(
        self, registry: Registry, version: Version, folder: Path, on_progress: Callable[[str, int, int], None]
    ) -> dict[str, Any]:
        from datasets.clips import read_clips
        from datasets.parts import all_parts
        from evaluation.evaluate import Contender, Generation
        from evaluation.prompts import prompts_for
        from evaluation.store import Store
        from models.generation import GenerationSettings
        from motiondirector.contenders import (
            OURS,
            Origin,
            bucket_of,
            other_data,
            pace_of_origin,
            read_version_adapters,
        )
        from motiondirector.judging import Judge
        from training.adapters import data_sha256

        origin = Origin.of(registry, version)
        settings = origin.settings or {}
        if origin.data is None:
            raise UserError(
                f"{version.ref} does not say what it was trained on; `motiondirector evaluate --data`."
            )
        clips = read_clips(origin.data, origin.concept)
        foundation = self._foundation(origin.foundation)
        contender = Contender(OURS, version.ref, read_version_adapters(registry, version, foundation))
        judge = Judge(
            foundation,
            Generation(
                GenerationSettings(steps=self.steps), bucket=bucket_of(origin, foundation), batch_size=BATCH
            ),
            tuple(range(1, self.seeds + 1)),
            clip=self.clip,
            pickscore=self.pickscore,
            held_out=PROMPTS,
            captions=True,
            opened=OPEN,
        )
        texts = prompts_for(self.prompts, origin.concept, version.concept)
        texts = texts or list(dict.fromkeys(settings.get("sample_prompts") or []))
        pace = pace_of_origin(origin, foundation)
        exam = judge.prepare(clips, texts or None, pace)
        parts = all_parts(clips, bucket_of(origin, foundation), pace)
        if self._base is None:
            self._base = tempfile.TemporaryDirectory(prefix="motiondirector-base-videos-")
        with tempfile.TemporaryDirectory(prefix="motiondirector-videos-") as videos:
            return judge(
                f"{version.ref} evaluated",
                exam,
                [contender],
                folder,
                Store(Path(videos)),
                on_progress,
                samples=True,
                base_store=Store(Path(self._base.name)),
                concept=version.ref,
                adapter_sha256=version.adapter_sha256,
                data=origin.data,
                data_sha256=data_sha256(parts),
                notes=[*other_data(version, origin.data, parts), *exam.notes],
            )

    def _foundation(self, source: str | None) -> Foundation:
        """Kept between versions: those of a batch mostly share one."""
        from models.load import load_foundation

        if self._loaded is None or self._loaded[0] != source:
            self._loaded = None
            self._loaded = source, load_foundation(source, device=self.device)
        return self._loaded[1]

    def _publish(self, registry: Registry, version: Version, told: dict[str, Any], folder: Path) -> None:
        from evaluation.report import published_scores
        from infra.objects import put_files

        files = put_files(registry.storage, folder)
        registry.add_metrics(version, {"evaluation": {**published_scores(told), FILES: files}})
