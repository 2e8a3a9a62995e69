"""What an ingress's process loads: neither a model's libraries nor what imports them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import ray.cloudpickle

from datasets.ingest import confined_child
from motiondirector.service.trainer import open_trainer
from serving.config import ServeConfig
from serving.engine_client import EngineLost, Residency
from serving.events import Admitted, Cancelled, Failed, Finished, Progressed
from serving.ray import router
from serving.ray.deployment import build_app
from serving.requests import FoundationInfo

UNPICKLED = """
import pickle, sys
assert len(pickle.load(sys.stdin.buffer)) > 5
print(*sorted({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""


def test_neither_the_ingress_nor_what_engines_answer_brings_torch_along(tmp_path: Path):
    ingress = build_app(ServeConfig(data_dir=str(tmp_path)))._bound_deployment.func_or_class
    answers = [Residency, FoundationInfo, EngineLost, Admitted, Progressed, Finished, Failed, Cancelled]
    # as Serve sends the class
    sent = ray.cloudpickle.dumps([ingress, router.AdapterRouter, open_trainer, confined_child, *answers])
    assert len(pickle.loads(sent)) == 12
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", UNPICKLED], input=sent, capture_output=True, env=environment, timeout=300
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout.decode().split() == []
