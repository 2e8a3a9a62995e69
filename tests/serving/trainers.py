"""A trainer whose trainings a test brings forward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.errors import InvalidInput
from infra.storage import Storage
from serving.trainings.trainer import Clips, Order, Prepared, Standing


class FakeTrainer:
    """Accepts what is not called `refused`. `now` has the standing of each concept that was entered."""

    def __init__(self) -> None:
        self.prepared: list[tuple[Order, list[Clips]]] = []
        self.now: dict[str, Standing] = {}
        self.entered: list[tuple[str, int]] = []
        self.withdrawn: list[str] = []
        self.during: Callable[[], None] = lambda: None  # called while clips are prepared

    def check(self, order: Order) -> None:
        if "workers" in order.settings:
            raise InvalidInput("workers is the server's.", code="invalid_setting")

    def prepare(
        self, order: Order, clips: Sequence[Clips], folder: Path, target: Storage, beat: Callable[[], None]
    ) -> Prepared:
        assert folder.is_dir()
        assert list(target.list()) == []
        self.prepared.append((order, list(clips)))
        target.put("shard.parquet", b"clips")
        self.during()
        beat()
        for one in clips:
            if one.path.read_bytes() == b"refused":
                raise InvalidInput(f"{one.name} is not a readable video.", code="unreadable_video")
        return Prepared({"name": order.concept, "data": target.uri}, 10, len(clips), ["a remark"])

    def enter(self, work: Mapping[str, Any], priority: int) -> None:
        self.entered.append((work["name"], priority))
        self.now[work["name"]] = Standing("queued")

    def standings(self, works: Collection[Mapping[str, Any]]) -> list[Standing | None]:
        return [self.now.get(work["name"]) for work in works]

    def cancel(self, work: Mapping[str, Any]) -> None:
        self.now[work["name"]] = Standing("cancelled")

    def pause(self, work: Mapping[str, Any]) -> None:
        self.now[work["name"]] = replace(self.now[work["name"]], state="paused")

    def resume(self, work: Mapping[str, Any]) -> None:
        self.now[work["name"]] = replace(self.now[work["name"]], state="queued")

    def withdraw(self, version: str) -> None:
        self.withdrawn.append(version)

    def forget(self, prefix: str) -> None:
        self.now = {name: standing for name, standing in self.now.items() if not name.startswith(prefix)}
