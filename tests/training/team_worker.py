"""A process of test_team.py: leads a team's pack through a sequence of steps, or follows.

python team_worker.py RANK WORKERS FOLDER ZERO
"""

import gc
import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from training_helpers import SMALL, random_clips, watch_deepspeed

from infra.errors import UserError
from models.load import load_foundation
from training.batch.lane import team as team_module
from training.batch.lane.team import Team
from training.batch.state.work import Work
from training.config import make_config
from training.loop.checkpoint import MemberState
from training.loop.deepspeed_engines import import_deepspeed
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Pack

SOURCE = "tiny-random:unet3d"
SIZE = {"frames": 4, "height": 32, "width": 32}


def member(foundation, number, clips, **settings):
    config = make_config({**SMALL, "learning_rate": 1e-3, "seed": number, **SIZE, **settings})
    return Member(f"m{number}", f"c{number}", config, random_clips(foundation, clips, seed=number))


def work_of(foundation, one):
    return Work(
        one.name, one.concept, "data", "0" * 64, len(one.clips), SOURCE, foundation.fingerprint, one.config
    )


def story(pack, make):
    """Train members of different lengths that come and go. Returns their (adapters, losses) by name."""
    adapters, losses = {}, {}
    pack.admit(make(1, 2, steps=6))
    pack.admit(make(2, 1, steps=3, skip_spatial=0.5))
    pack.admit(make(3, 1, steps=9))
    kept = None
    for step in range(1, 20):
        for event in pack.step():
            losses.setdefault(event.name, []).append(event.report.loss)
            if isinstance(event, Ended):
                adapters[event.name] = event.tensors["temporal"]
        if step == 2:
            kept = MemberState.decode(pack.state("m3").encode())
            pack.leave("m3")
        if step == 4:  # m3 returns to other slots
            pack.admit(make(4, 1, steps=2))
            pack.admit(make(3, 1, steps=9), kept)
        if not pack.members:
            return adapters, losses
    raise AssertionError(pack.members)


def lead(team, foundation, zero):
    def make(number, clips, **settings):
        return member(foundation, number, clips, workers=team.workers, zero=zero, **settings)

    first = make(1, 2)
    try:
        with team.pack(foundation, work_of(foundation, first), Capacity(3, 4)):
            raise AssertionError("a pack was opened whose foundation a worker cannot load")
    except UserError as error:
        assert "in fp32 does not fit the memory of" in error.message  # noqa: PT017 - no pytest here
    with team.pack(foundation, work_of(foundation, first), Capacity(3, 4)) as pack:
        try:
            pack.admit(make(9, 0))
        except UserError as error:
            assert "has no clips" in error.message  # noqa: PT017 - no pytest here
        else:
            raise AssertionError("a member without clips was let in")
        told = story(pack, make)
        parameters = list(foundation.denoiser.parameters())
        held = sum(p.ds_tensor.numel() if hasattr(p, "ds_tensor") else p.numel() for p in parameters)
        gathered = sum(p.numel() for p in parameters)
    bank = weakref.ref(pack.engine.module.bank)
    del pack
    gc.collect()
    left = sum(p.ds_tensor.numel() for p in parameters if hasattr(p, "ds_tensor"))
    return {"story": told, "held": held, "gathered": gathered, "left": left, "bank": bank() is not None}


def alone(workers):
    """Run the same `story` in one process with one forward per worker."""
    foundation = load_foundation(SOURCE, device="cpu", dtype="float32")

    def make(number, clips, **settings):
        return member(foundation, number, clips, gradient_accumulation=workers, **settings)

    key = work_of(foundation, make(1, 2)).key
    with Pack(foundation, key, Capacity(3, 4)) as pack:
        return story(pack, make)


def short_of_memory_at_first(load):
    """`load_foundation`, but the first call runs out of memory."""
    calls = []

    def loading(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return load(*arguments, **options)

    return loading


def main(rank, workers, folder, zero):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    with Team() as team:
        if not team.leads:
            team_module.load_foundation = short_of_memory_at_first(load_foundation)
            team.follow("cpu")
            return
        handed = watch_deepspeed(import_deepspeed()) if zero else []
        foundation = load_foundation(SOURCE, device="cpu", dtype="float32")
        whole = sum(p.numel() for p in foundation.denoiser.parameters())
        torch.save({"whole": whole, "handed": handed, **lead(team, foundation, zero)}, folder / "told.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, rank, workers, folder, zero = sys.argv
    main(int(rank), int(workers), Path(folder), int(zero))
