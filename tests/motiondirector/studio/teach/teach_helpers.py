"""A person who teaches: clips, uploads in parts as the page sends them, and a training brought forward by hand."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from datasets.video.writing import encode_mp4
from serving.trainings.trainer import Standing

API = "/studio/api"


def clip(frames: int = 12, size: int = 96, seed: int = 1) -> bytes:
    """A texture that slides."""
    picture = np.random.default_rng(seed).integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
    picture = np.kron(picture, np.ones((8, 8, 1), np.uint8))
    return encode_mp4(np.stack([np.roll(picture, 4 * i, 1) for i in range(frames)]), 8)


def upload(
    client: TestClient, content: bytes, name: str = "a.mp4", headers: dict[str, str] | None = None
) -> str:
    """Upload in two parts; the file's id."""
    body = {"filename": name, "purpose": "fine-tune", "bytes": len(content), "mime_type": "video/mp4"}
    begun = client.post(f"{API}/v1/uploads", json=body, headers=headers)
    assert begun.status_code == 200, begun.text
    half = len(content) // 2 or 1
    pieces = [piece for piece in (content[:half], content[half:]) if piece]
    parts = []
    for number, piece in enumerate(pieces):
        sent = client.post(
            f"{API}/v1/uploads/{begun.json()['id']}/parts",
            files={"data": ("part", piece)},
            data={"number": str(number)},
            headers=headers,
        )
        assert sent.status_code == 200, sent.text
        parts.append(sent.json()["id"])
    done = client.post(
        f"{API}/v1/uploads/{begun.json()['id']}/complete", json={"part_ids": parts}, headers=headers
    )
    assert done.status_code == 200, done.text
    return done.json()["file"]["id"]


def start(
    client: TestClient, file: str, suffix: str = "slide", headers: dict[str, str] | None = None, **body: Any
):
    """Ask for a training, as the page does; its id."""
    given = {"model": "foundation", "training_file": file, "suffix": suffix, "caption": "a texture slides"}
    made = client.post(f"{API}/v1/fine_tuning/jobs", json={**given, **body}, headers=headers)
    assert made.status_code == 200, made.text
    return made.json()["id"]


def until(client: TestClient, id: str, text: str) -> str:
    """The part of a training, once it says so."""
    end = time.monotonic() + 30
    while text not in (shown := client.get(f"/studio/parts/trainings/{id}").text):
        assert time.monotonic() < end, shown
        time.sleep(0.02)
    return shown


def stamp(part: str) -> str:
    found = re.search(r"\?seen=([^\"&]*)", part)
    assert found is not None
    return found.group(1)


def forward(client: TestClient, **standing: Any) -> None:
    """Set where the only training stands."""
    trainer = client.trainer  # type: ignore[attr-defined]
    (name,) = trainer.now
    trainer.now[name] = Standing(**standing)
    client.service.trainings.desk.notify()  # type: ignore[attr-defined]
