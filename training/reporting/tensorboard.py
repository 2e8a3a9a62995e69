"""Writes a run's TensorBoard: losses of both paths, learning rate, step time, contact sheets of the samples.

Event files are written locally and copied as a whole to `<run>/tensorboard/`, in a folder or in S3:

    tensorboard --logdir runs/orbit/tensorboard
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.storage import Storage
from training.reporting.shown import harmless

UPLOAD_EVERY_S = 10.0
SCALARS = {
    "loss/spatial": "spatial_loss",
    "loss/temporal": "temporal_loss",
    "loss/total": "loss",
    "learning_rate": "learning_rate",
    "step_seconds": "seconds",
}


class TensorBoard:
    """Context manager. A continued run adds a file that replaces events from its first step on."""

    def __init__(self, run: Storage) -> None:
        self.run = run
        self.folder = tempfile.TemporaryDirectory(prefix="motiondirector-tensorboard-")
        self.writer: Any = None
        self.uploaded = time.monotonic()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            with harmless(f"the last events of {self.run.uri}/tensorboard are not stored"):
                self.writer.close()
                self._upload()
        self.folder.cleanup()

    def _at(self, step: int) -> Any:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder.name, purge_step=step)
        return self.writer

    def stepped(self, report: Mapping[str, Any]) -> None:
        """Write the scalars of a step."""
        writer = self._at(report["step"])
        for tag, key in SCALARS.items():
            writer.add_scalar(tag, report[key], report["step"])
        if time.monotonic() - self.uploaded > UPLOAD_EVERY_S:
            writer.flush()
            self._upload()

    def sampled(self, step: int, keys: Sequence[str]) -> None:
        """Write the contact sheet (the last key) as an image."""
        import numpy as np
        from PIL import Image

        sheet = Image.open(io.BytesIO(self.run.get(keys[-1]))).convert("RGB")
        self._at(step).add_image("samples", np.asarray(sheet), step, dataformats="HWC")

    def _upload(self) -> None:
        for path in Path(self.folder.name).rglob("events.*"):
            self.run.put_file(f"tensorboard/{path.name}", path)
        self.uploaded = time.monotonic()
