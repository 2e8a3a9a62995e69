"""A process that runs the training of the paper's published code: `python -m benchmarks.published_parts.theirs FD JOB`.

JOB is a JSON file: {"checkout", "config", "probe", "norm_groups", "like_for_like", "seed"}. `config` has the arguments of the
code's `main`. The code on disk is not changed; this module supplies replacements for the old libraries that it needs. The
docstring of benchmarks/published_code.py lists them and says why none changes the computation.
"""

from __future__ import annotations

import functools
import glob
import importlib
import importlib.util
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

from benchmarks.published_parts.turns import Turns

ROOT = Path(__file__).resolve().parents[2]
# Imported by the published modules but never called in a run without previews.
NEVER_CALLED = ("omegaconf", "torchvision", "torchvision.transforms", "imageio")
MOVED = {  # old diffusers module: current one
    "diffusers.models.transformer_2d": "diffusers.models.transformers.transformer_2d",
    "diffusers.models.transformer_temporal": "diffusers.models.transformers.transformer_temporal",
}


class Attributes(dict):
    """A dict whose keys are also attributes, as in OmegaConf."""

    __getattr__ = dict.__getitem__


def make_room(checkout: Path) -> None:
    """Make `models` and `utils` resolve to the checkout's folders (without __init__.py) instead of ours."""
    sys.path[:] = [str(checkout), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    for name in ("models", "utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name)]
        sys.modules[name] = package


def name_what_moved() -> None:
    """Register diffusers modules under their old names."""
    for old, new in MOVED.items():
        if importlib.util.find_spec(old) is None:
            sys.modules[old] = importlib.import_module(new)


def stand_ins() -> list[str]:
    """Add empty modules for missing ones that are never called. Returns their names, for removal after the import."""
    missing = [name for name in NEVER_CALLED if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in missing:
        module: Any = types.ModuleType(name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
        sys.modules[name] = module
    if "omegaconf" in missing:
        sys.modules["omegaconf"].OmegaConf = None  # type: ignore[attr-defined]
    return missing


def group_norms_of(groups: int) -> None:
    """Give temporal layers the foundation's number of groups. It was always 32, too many for a small model's channels."""
    from diffusers.models.resnet import TemporalConvLayer
    from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

    for kind in (TemporalConvLayer, TransformerTemporalModel):
        _default(kind, norm_num_groups=groups)


def _default(kind: Any, **values: Any) -> None:
    own = kind.__init__

    @functools.wraps(own)
    def initialise(self, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **{**values, **kwargs})

    kind.__init__ = initialise


def text_encoders_as_before() -> None:
    """Restore `_set_gradient_checkpointing(module, value=)`; a frozen text encoder in eval mode never checkpoints."""
    from transformers import CLIPTextModel

    now = CLIPTextModel._set_gradient_checkpointing

    def before(self, module: Any = None, value: bool = False) -> None:
        now(self, enable=value)

    CLIPTextModel._set_gradient_checkpointing = before


def cuda_is_the_cpu() -> None:
    """Without CUDA, make "cuda" mean the CPU and float16, which is requested with it, mean float32."""
    import torch

    def here(own: Any, whose: Any) -> Any:
        @functools.wraps(own)
        def to(self, *args: Any, **kwargs: Any) -> Any:
            if args and args[0] == "cuda":
                args = ("cpu", *args[1:])
                kwargs = {**kwargs, "dtype": torch.float32} if "dtype" in kwargs else kwargs
            return own(self, *args, **kwargs)

        return to

    for kind in (torch.nn.Module, torch.Tensor):
        kind.to = here(kind.to, kind)  # type: ignore[method-assign]
    load = torch.load

    def load_here(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
        return load(file, map_location="cpu", **kwargs)

    torch.load = load_here


def steps_between_backwards() -> None:
    """Let AdamW step between two backward passes through its parameters, as the code does with its spatial LoRA.

    Autograd accepts this with checkpointing (which recomputes with the new values) and in mixed precision (which uses copies of
    the old values), but refuses it in float32 without either. Here the second backward pass uses the new values.
    """
    import torch

    own = torch.optim.AdamW.step

    @functools.wraps(own)
    def step(self, *args: Any, **kwargs: Any) -> Any:
        parameters = tuple(p for group in self.param_groups for p in group["params"])
        with torch.autograd._unsafe_preserve_version_counter(parameters):
            return own(self, *args, **kwargs)

    torch.optim.AdamW.step = step  # type: ignore[method-assign]


def take_turns(turns: Turns) -> None:
    """Report a step when the code logs its training loss; it had a spatial pass if there were two backward passes."""
    from accelerate import Accelerator

    backward, log, backwards = Accelerator.backward, Accelerator.log, [0]

    def counted(self, *args: Any, **kwargs: Any) -> None:
        backwards[0] += 1
        backward(self, *args, **kwargs)

    def logged(self, values: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        log(self, values, *args, **kwargs)
        if "train_loss" in values:
            spatial, backwards[0] = backwards[0] > 1, 0
            turns.done(spatial=spatial)

    Accelerator.backward, Accelerator.log = counted, logged  # type: ignore[method-assign]


def probed(job: dict[str, Any]) -> dict[str, Any]:
    """How far its UNet's output is from ours with the foundation's weights, and the names of its LoRAs in order."""
    import torch

    network = importlib.import_module("models.unet_3d_condition").UNet3DConditionModel
    lora = importlib.import_module("utils.lora")
    unet = network.from_pretrained(job["config"]["pretrained_model_path"], subfolder="unet").eval()
    probe = torch.load(job["probe"])
    with torch.no_grad():
        answer = unet(probe["x"], probe["t"], encoder_hidden_states=probe["text"]).sample
    names = {id(module): name for name, module in unet.named_modules()}
    found = lora._find_modules(unet, ["TransformerTemporalModel"], search_class=[torch.nn.Linear])
    return {
        "differs": float((answer - probe["answer"]).abs().max()),
        "temporal": [names[id(module)] for _, _, module in found],
    }


def main(fd: int, job: dict[str, Any]) -> None:
    turns, checkout = Turns(fd), Path(job["checkout"])
    make_room(checkout)
    import accelerate
    import diffusers
    import torch
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline  # noqa: F401 (before stand-ins)
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    name_what_moved()
    group_norms_of(job["norm_groups"])
    text_encoders_as_before()
    if not torch.cuda.is_available():
        cuda_is_the_cpu()
    if job["like_for_like"]:
        steps_between_backwards()
    take_turns(turns)
    missing = stand_ins()
    published: Any = importlib.import_module("MotionDirector_train")
    for name in missing:
        del sys.modules[name]
    turns.send(
        {
            **probed(job),
            "missing": missing,
            "versions": {m.__name__: m.__version__ for m in (torch, diffusers, transformers, accelerate)},
        }
    )
    torch.manual_seed(job["seed"])
    random.seed(job["seed"])
    config = {k: Attributes(v) if isinstance(v, dict) else v for k, v in job["config"].items()}
    published.main(**config)
    (written,) = glob.glob(f"{config['output_dir']}/*/temporal/lora/*_unet.pt")
    turns.send({"file": written})


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
