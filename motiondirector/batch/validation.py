"""Evaluates each version that `train-batch --evaluate` publishes: a small `evaluate` whose results the registry keeps.

The front door passes it to the batch (training/batch/watch/validation.py), which does not depend on evaluation. Scores,
page, report and sample videos are objects in the registry and are named in the version's metrics, under `evaluation`:
`concepts show` prints the scores, `concepts pull --samples` downloads the files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.prompts import Prompt
    from infra.registry import Registry, Version
    from models.foundations.base import Foundation

PROMPTS = 4  # held-out appearances, if no prompts are given and the clips are sprites
OPEN = 4  # open prompts, which name only the subject's class


@dataclass
class Evaluation:
    """Called with a version: generates videos, measures them and adds the scores to the version.

    Picklable: it loads the foundation when it is first called.

    Args:
        registry: URI.
        prompts: for every concept, or for the one that a prompt names. A concept without prompts uses its
            `sample_prompts`, else held-out appearances of the sprite world, or the captions of clips that are not sprites.
        seeds: videos of each prompt, from the seeds 1, 2, ...
        steps: denoising steps; None: the foundation's.
        device: None: a GPU if there is one.
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
    _base: Any = field(
        default=None, init=False, repr=False, compare=False
    )  # temporary folder of this process

    def __call__(
        self, version: Version, on_progress: Callable[[str, int, int], None]
    ) -> dict[str, float | None]:
        """The means of the metrics, by title.

        Raises:
            UserError: the clips are gone, the foundation cannot be loaded or does not suit, or the storage is unavailable.
        """
        from infra.registry import open_registry
        from motiondirector.judging.judge import REPORT

        registry = open_registry(self.registry)
        folder = Path(tempfile.mkdtemp(prefix="motiondirector-validation-"))
        try:
            report = self._judge(registry, version, folder, on_progress)
            assert (folder / REPORT).is_file()
            self._publish(registry, version, report, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {
            metric["title"]: metric["scores"]["ours"]["mean"]
            for metric in report["metrics"].values()
            if metric["scores"]["ours"]["mean"] is not None
        }

    def _judge(
        self, registry: Registry, version: Version, folder: Path, on_progress: Callable[[str, int, int], None]
    ) -> dict[str, Any]:
        from evaluation.prompts import prompts_for
        from evaluation.store import Store
        from motiondirector.judging.config import JudgeConfig
        from motiondirector.judging.contenders import Origin
        from motiondirector.judging.judge import judge_of
        from motiondirector.judging.subject import Subject

        origin = Origin.of(registry, version)
        subject = Subject.of(registry, version, origin, self._foundation)
        config = JudgeConfig(seeds=self.seeds, steps=self.steps, clip=self.clip, pickscore=self.pickscore)
        judge = judge_of(
            config, subject.foundation, subject.bucket, held_out=PROMPTS, captions=True, opened=OPEN
        )
        texts = prompts_for(self.prompts, origin.concept, version.concept)
        texts = texts or list(dict.fromkeys((origin.settings or {}).get("sample_prompts") or []))
        exam = judge.prepare(subject.clips, texts or None, subject.pace)
        if self._base is None:
            self._base = tempfile.TemporaryDirectory(prefix="motiondirector-base-videos-")
        with tempfile.TemporaryDirectory(prefix="motiondirector-videos-") as videos:
            return judge(
                f"{version.ref} evaluated",
                exam,
                [subject.ours],
                folder,
                Store(Path(videos)),
                on_progress,
                samples=True,
                base_store=Store(Path(self._base.name)),
                **subject.facts(exam.notes),
            )

    def _foundation(self, source: str | None) -> Foundation:
        """The loaded foundation, kept for the next version: versions of a batch mostly share one."""
        from models.load import load_foundation

        if self._loaded is None or self._loaded[0] != source:
            self._loaded = None
            self._loaded = source, load_foundation(source, device=self.device)
        return self._loaded[1]

    def _publish(self, registry: Registry, version: Version, report: dict[str, Any], folder: Path) -> None:
        from evaluation.report import FILES, published_scores
        from infra.storage.objects import put_files

        files = put_files(registry.storage, folder)
        registry.add_metrics(version, {"evaluation": {**published_scores(report), FILES: files}})
