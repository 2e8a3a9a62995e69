"""An erased adapter is in no tier: not on disk, not in host memory, not in a slot."""

from __future__ import annotations

from pathlib import Path

from serving_helpers import Bench, Publish

from infra.registry import Registry
from infra.storage.objects import object_key
from models.foundations.base import Foundation
from serving.adapters.files import AdapterFiles
from serving.schemas import AdapterUsed


def used(version) -> AdapterUsed:
    return AdapterUsed(
        concept=version.concept, version=version.number, path="temporal", sha256=version.adapter_sha256
    )


def test_an_erased_adapter_leaves_every_tier_once_nobody_uses_it(
    unet3d: Foundation, registry: Registry, publish: Publish, tmp_path: Path
):
    use = used(publish(unet3d, "orbit"))
    files = AdapterFiles(registry, unet3d, tmp_path / "cache")
    bench = Bench(unet3d, files)
    bench.run(a=bench.request(1, use))
    cache, bank = bench.engine.adapters, bench.engine.adapters.bank
    [resident] = cache.residency()
    assert (resident.tier, resident.sha256, files.resident()) == ("slot", use.sha256, [use.sha256])
    lease = cache.slots.acquire([use], {})
    assert lease is not None
    [slot] = lease.slots
    assert any(b.any() for _, b in bank.extract("temporal", slot).values())
    assert not cache.forget([use.sha256]), "a request uses it"
    assert any(b.any() for _, b in bank.extract("temporal", slot).values())
    lease.release()
    assert cache.forget([use.sha256])
    assert (cache.residency(), files.resident()) == ([], [])
    assert not any(a.any() or b.any() for a, b in bank.extract("temporal", slot).values())
    assert cache.forget([use.sha256]), "repeated, after a crash"
    bench.run(b=bench.request(1, use))  # the slot is free for another
    assert [one.tier for one in cache.residency()] == ["slot"]


def test_an_engine_that_was_away_drops_what_was_erased_meanwhile(
    unet3d: Foundation, registry: Registry, publish: Publish, tmp_path: Path
):
    kept, erased = used(publish(unet3d, "orbit", seed=1)), used(publish(unet3d, "walk", seed=2))
    files = AdapterFiles(registry, unet3d, tmp_path / "cache")
    for use in (kept, erased):
        files.fetch(use)
    registry.storage.delete(object_key(erased.sha256))
    AdapterFiles(registry, unet3d, tmp_path / "cache").forget_erased()
    assert files.resident() == [kept.sha256]
    (Path(registry.uri) / "objects").rename(tmp_path / "unmounted")
    files.forget_erased()
    assert files.resident() == [kept.sha256], "a registry that is away says nothing"
