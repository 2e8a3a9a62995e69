"""A process of test_train_engine.py: trains with given methods and ZeRO stages, and prints results as JSON.

python zero_worker.py RANK WORKERS RENDEZVOUS_FILE '{"dual": [0, 3]}' CLIPS FOLDER
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from training_helpers import masked, parameters, random_clips, save, solo, watch_deepspeed

from models.load import load_foundation
from training.loop.checkpoint import MemberState
from training.loop.deepspeed_engines import DeepSpeedEngine, import_deepspeed

MASKED = {"mask_inside": 4.0, "mask_outside": 0.5}


def run_of(zero, clips, method, folder=None):
    """A pack of one at a ZeRO stage; where it goes on, from a checkpoint's folder."""
    kind = "int8" if method == "int8" else "none"
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype="float32", quantize=kind)
    state = None if folder is None else MemberState.read(folder)
    if state is not None:
        state.check_workers(zero, dist.get_world_size())
    settings = {"steps": 4, "zero": zero, "gradient_accumulation": 2}
    made = random_clips(foundation, clips)
    if method == "masked":
        made, own = masked(made, foundation), MASKED
    else:
        own = {"quantize": kind} if method == "int8" else {"method": method}
    return solo(foundation, made, state, DeepSpeedEngine, **settings, **own)


def digest(run):
    total = hashlib.sha256()
    for parameter in parameters(run).values():
        total.update(parameter.numpy().tobytes())
    return total.hexdigest()


def trained(zero, clips, method, folder, workers, rank, handed):
    """What comes out of a run that keeps a checkpoint of its second step, and of one that goes on from that."""
    with run_of(zero, clips, method) as run:
        found = {"handed": handed[-1], "losses": []}
        for report in run.train():
            found["losses"].append(report.loss)
            if report.step == 2:
                if rank == 0:
                    save(run, folder, zero, workers)
                run.engine.save(folder)
        found["norm"] = sum(float(p.double().square().sum()) for p in parameters(run).values())
        found["digest"] = digest(run)
    dist.barrier()
    with run_of(zero, clips, method, folder) as again:
        again.engine.load(folder)
        found["continued"] = [report.loss for report in again.train()]
        found["continued_digest"] = digest(again)
    return found


def main(rank, workers, rendezvous, asked, clips, folder):
    handed = watch_deepspeed(import_deepspeed())
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers)
    results = {
        method: {
            zero: trained(zero, clips, method, folder / f"{method}{zero}", workers, rank, handed)
            for zero in stages
        }
        for method, stages in asked.items()
    }
    print("RESULT " + json.dumps(results), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, rank, workers, rendezvous, asked, clip_count, folder = sys.argv
    main(int(rank), int(workers), rendezvous, json.loads(asked), int(clip_count), Path(folder))
