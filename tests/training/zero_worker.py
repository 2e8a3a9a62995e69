"""A process of test_train_engine.py: trains with given methods and ZeRO stages, and prints results as JSON.

python zero_worker.py RANK WORKERS RENDEZVOUS_FILE '{"dual": [0, 3]}' CLIPS FOLDER
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from training_helpers import SMALL, random_clips, watch_deepspeed

from models.load import load_foundation
from training import checkpoint
from training.config import make_config
from training.engine import DeepSpeedEngine, import_deepspeed, make_optimizer
from training.loop import bank_options, train
from training.step import DualStep


def engine_of(zero, clips, **settings):
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")
    config = make_config({**SMALL, "steps": 4, "zero": zero, "gradient_accumulation": 2, **settings})
    bank = foundation.add_bank(**bank_options(config, clips))
    engine = DeepSpeedEngine(DualStep(foundation, config), make_optimizer(bank, config, clips))
    return engine, random_clips(foundation, clips)


def digest(engine):
    total = hashlib.sha256()
    for _, parameter in checkpoint._named(engine.module.bank):
        total.update(parameter.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def main(rank, workers, rendezvous, asked, clip_count, folder):
    handed = watch_deepspeed(import_deepspeed())
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers)
    results = {method: {} for method in asked}
    for method, zero in ((method, zero) for method, stages in asked.items() for zero in stages):
        engine, clips = engine_of(zero, clip_count, method=method)
        losses = []
        for report in train(engine, "c", clips):
            losses.append(report.loss)
            if report.step == 2:
                checkpoint.save(
                    folder / f"{method}{zero}", engine, {"step": 2, "zero": zero, "workers": workers}
                )
        norm = sum(float(p.detach().double().square().sum()) for p in engine.module.bank.parameters())
        dist.barrier()
        again, clips = engine_of(zero, clip_count, method=method)
        position = checkpoint.restore(folder / f"{method}{zero}", again)
        rest = [report.loss for report in train(again, "c", clips, start=position["step"])]
        results[method][zero] = {
            "handed": handed[-1],
            "losses": losses,
            "norm": norm,
            "digest": digest(engine),
            "continued": rest,
            "continued_digest": digest(again),
        }
    print("RESULT " + json.dumps(results), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, rank, workers, rendezvous, asked, clip_count, folder = sys.argv
    main(int(rank), int(workers), rendezvous, json.loads(asked), int(clip_count), Path(folder))
