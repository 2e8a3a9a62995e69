"""A tenant with OpenAI's official client: uploads clips, has their motion learned, watches it, and makes a video with it.

python docs/examples/tenant.py http://localhost:8000 clips.zip --caption "a paper plane is flying" --suffix plane
"""

import argparse
import json
import os
import time
from pathlib import Path

from openai import OpenAI


def learn(
    client: OpenAI, clips: Path, *, suffix: str, caption: str, seed: int | None = None, **settings: float
) -> str:
    """Have the motion of a video or a zip of videos learned. Returns the `model` that has it."""
    with clips.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    print(f"{file.id}: {file.filename}, {file.bytes} bytes")
    job = client.fine_tuning.jobs.create(
        model="foundation",
        training_file=file.id,
        suffix=suffix,
        method={"type": "motion", "motion": {"hyperparameters": settings}},
        extra_body={"caption": caption, **({} if seed is None else {"seed": seed})},
    )
    seen = set()
    while True:
        ended = job.status in ("succeeded", "failed", "cancelled")
        for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data):
            if event.id not in seen:
                seen.add(event.id)
                print(f"{event.level}: {event.message}")
        if ended:
            break
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    client.files.delete(file.id)
    if job.status != "succeeded":
        raise SystemExit(f"{job.id} {job.status}: {job.error.message if job.error else ''}")
    return job.fine_tuned_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("clips", type=Path)
    parser.add_argument("--caption", required=True)
    parser.add_argument("--suffix", required=True)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a training setting, such as steps=200; repeatable",
    )
    parser.add_argument("--prompt", default="a red star on a navy background")
    parser.add_argument("--out", type=Path, default=Path("out.mp4"))
    given = parser.parse_args()
    client = OpenAI(base_url=f"{given.server}/v1", api_key=os.environ["MOTIONDIRECTOR_API_KEY"])
    settings = {name: json.loads(value) for name, value in (one.split("=", 1) for one in given.set)}
    model = learn(client, given.clips, suffix=given.suffix, caption=given.caption, **settings)
    print(f"model: {model}")
    video = client.videos.create_and_poll(model=model, prompt=given.prompt, extra_body={"seed": 7})
    client.videos.download_content(video.id).write_to_file(given.out)
    print(f"{video.id} {video.status}: {given.out}")


if __name__ == "__main__":
    main()
