"""Others read a clip set: Ray Data, and Hugging Face `datasets` as a Video column; and Ray Data writes one."""

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.latents import LatentCache
from datasets.clip_sets.select import Selection
from datasets.ingest.local import ingest
from datasets.ingest.sources import expand
from infra.storage import open_storage

ROOT = Path(__file__).resolve().parents[3]
SMALL = Selection(frames=8, height=64, width=96, fps=6, windows=None)


@pytest.fixture
def sources(make_video, tmp_path):
    """Five videos (one long), one broken, one twice."""
    for i in range(5):
        make_video(f"in/{i}.mp4", seed=i, num_frames=80 if i == 2 else 24)
    (tmp_path / "in" / "broken.mp4").write_text("no")
    (tmp_path / "in" / "twin.mp4").write_bytes((tmp_path / "in" / "0.mp4").read_bytes())
    return expand([str(tmp_path / "in")])


@pytest.fixture(scope="module")
def cluster():
    from infra.ray.cluster import ray_session

    with ray_session(num_cpus=2) as session:
        yield session


@pytest.mark.cluster
def test_ray_data_ingests_to_the_same_rows_and_reads_them(cluster, sources, s3, tmp_path):
    import ray

    from datasets.ingest.cluster import ingest_with_ray

    here = open_storage(tmp_path / "here")
    reports = [ingest(sources, SMALL, here, concept="slide", caption="it slides")]
    for target in (open_storage(tmp_path / "there"), open_storage(f"{s3.uri}/ray-{tmp_path.name}")):
        reports.append(ingest_with_ray(sources, SMALL, target, concept="slide", caption="it slides"))
        assert [replace(a, warnings=[]) for a in reports[0].outcomes] == [
            replace(b, warnings=[]) for b in reports[-1].outcomes
        ]
        moment = read_clips(here.uri)[0].ingested_at
        mine = [replace(clip, ingested_at=moment) for clip in read_clips(here.uri)]
        assert [replace(clip, ingested_at=moment) for clip in read_clips(target.uri)] == mine
        assert len(mine) == 9
        assert [info.key for info in target.list() if info.key.startswith(".staging/")] == []
        # again: nothing is added
        again = ingest_with_ray(sources, SMALL, target, concept="slide", caption="it slides")
        assert (again.count("accepted"), again.count("duplicate")) == (0, 10)
        LatentCache(target).put("a/b.safetensors", {})
        target.put(".staging/clips-unfinished.parquet", b"not yet")
        filesystem, base = target.arrow()
        rows = ray.data.read_parquet(base, filesystem=filesystem).take_all()
        assert sorted(row["clip_id"] for row in rows) == sorted(clip.clip_id for clip in mine)
        assert {row["video"]["bytes"] for row in rows} == {clip.video for clip in mine}


@pytest.mark.cluster
def test_a_storage_that_refuses_is_told_from_ray_as_from_here(cluster, sources, tmp_path):
    from datasets.ingest.cluster import ingest_with_ray
    from infra.errors import UserError

    with pytest.raises(UserError) as told:
        ingest_with_ray(sources, SMALL, open_storage("/proc/nowhere"), concept="slide", caption="it slides")
    assert "/proc/nowhere" in told.value.message


@pytest.fixture(scope="session")
def hugging_face() -> Path:
    """A folder with Hugging Face's `datasets`, which must never be in this environment (`make test` fills it)."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("datasets")
    folder = ROOT / ".cache" / "hf-datasets"
    if not (folder / ".installed").is_file():
        subprocess.run(
            ["make", "-C", str(ROOT), ".cache/hf-datasets/.installed"], check=True, capture_output=True
        )
    return folder


READ = """
import json, sys
import datasets
folder, cache = sys.argv[1:]
told = {"module": datasets.__file__}
for name, how in {
    "folder": {"path": folder},
    "data_dir": {"path": "parquet", "data_dir": folder},
    "glob": {"path": "parquet", "data_files": folder + "/*.parquet"},
}.items():
    table = datasets.load_dataset(split="train", cache_dir=cache, **how)
    feature = type(table.features["video"]).__name__
    rows = table.cast_column("video", datasets.Video(decode=False)).sort("clip_id")
    told[name] = [feature, [[row["clip_id"], len(row["video"]["bytes"]), row["caption"]] for row in rows]]
json.dump(told, sys.stdout)
"""


def test_hugging_face_datasets_sees_a_video_column(hugging_face, sources, tmp_path):
    report = ingest(sources, SMALL, open_storage(tmp_path / "set"), concept="slide", caption="it slides")
    assert report.count("accepted") == 9
    open_storage(tmp_path / "set").put(".staging/clips-unfinished.parquet", b"not yet")
    LatentCache(open_storage(tmp_path / "set")).put("a/b.safetensors", {})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(hugging_face), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    told = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "set"), str(tmp_path / "cache")],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    answers = json.loads(told.stdout)
    assert Path(answers.pop("module")).is_relative_to(hugging_face)
    clips = sorted(read_clips(tmp_path / "set"), key=lambda clip: clip.clip_id)
    rows = [[clip.clip_id, len(clip.video), clip.caption] for clip in clips]
    assert answers == {name: ["Video", rows] for name in ("folder", "data_dir", "glob")}
