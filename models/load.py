"""Loads a foundation model from a folder, a hub id or the embedded default (see models/locating.py)."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from infra.errors import UserError
from models.dtypes import DTYPES, parse_dtype
from models.family import FamilySpec, read_config
from models.foundations.base import Foundation, move_parts
from models.locating import family_of, foundation_name, locate, read_recommended
from models.offloading import Offloading, check_offload, offload_encoders
from models.quantizing import Quantization, quantize_base
from models.scale.published import PREFIX, PUBLISHED

PARTS = ("denoiser", "text", "vae")


class NoSafetensors(UserError):
    """A foundation has only pickled weights, which are not loaded."""

    default_code = "no_safetensors"


def load_foundation(
    source: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    parts: Collection[str] = PARTS,
    denoiser_on_cpu: bool = False,
    quantize: Quantization = "none",
    offload: Offloading = "none",
) -> Foundation:
    """Load a foundation model.

    Args:
        source: a folder in diffusers' format, a hub id, `tiny-random:unet3d` or another name of models/tiny/
            (random weights of the real classes, for tests), or None for the embedded sprite model.
        device: None takes CUDA if available.
        dtype: of the denoiser and the text encoder ("fp32", "bf16", "fp16", or torch's names:
            models/dtypes.py); None takes float32 on a CPU and bfloat16 on CUDA. Wan's VAE stays in
            float32, as its authors advise.
        parts: which of "denoiser", "text", "vae" to load. A training worker with cached latents needs
            only the denoiser. If empty, no weights are read, which is enough for sizes and defaults.
        denoiser_on_cpu: leave the denoiser in host memory. It need not fit the device if each worker is then
            given a share of it (`training.loop.deepspeed_engines.spread`).
        quantize: "int8" for the weights of the denoiser's blocks (models/quantizing.py).
        offload: "encoders" leaves the text encoder and the VAE in host memory while they do not work
            (models/offloading.py).

    Raises:
        UserError: an unusable device or dtype, a missing model, a folder without a pipeline, an unsupported
            family, or weights that are not safetensors.
    """
    device = usable_device(device) if device else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(dtype, str):
        dtype = torch_dtype(dtype)
    check_offload(offload, device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)

    quiet_libraries()
    name = foundation_name(source)
    folder = locate(source)
    if parts and str(source).startswith(PREFIX):
        raise UserError(
            f"{source} is a configuration without weights; give a folder or hub id that has them, such as "
            f"{PUBLISHED[str(source).removeprefix(PREFIX)].hub}.",
            code="no_weights",
        )
    family = family_of(folder, str(source or "the embedded foundation"))
    index = read_config(folder, "")
    components = {  # without those that this checkpoint leaves out
        part: tuple(name for name in names if index.get(name, [None])[0])
        for part, names in family.components.items()
    }
    pipeline = _read_pipeline(folder, name, source, family, index, components, parts, dtype)
    # Weights are quantized in host memory: the whole base in its own precision may not fit the device.
    stays = components["denoiser"] if denoiser_on_cpu or quantize != "none" or "denoiser" not in parts else ()
    if offload == "encoders":
        stays += (*components["text"], *components["vae"])
    if parts:
        move_parts(pipeline, device, but=stays)
    foundation = family.foundation_class()(
        pipeline,
        family,
        name=name,
        source=str(source) if source is not None else "sprites",
        folder=folder,
        recommended=read_recommended(folder),
    )
    if "denoiser" in parts and quantize != "none":
        quantize_base(foundation, quantize)
        if not denoiser_on_cpu:
            foundation.denoiser.to(device)
    if offload == "encoders":
        offload_encoders(foundation, device)
    return foundation


def _read_pipeline(
    folder: Path,
    name: str,
    source: str | Path | None,
    family: FamilySpec,
    index: Mapping[str, Any],
    components: Mapping[str, tuple[str, ...]],
    parts: Collection[str],
    dtype: torch.dtype,
) -> Any:
    """A checkpoint's pipeline, in host memory, with the weights of `parts` alone. Arguments and errors as in `load_foundation`.

    Args:
        index: the content of its model_index.json.
        components: of each part.
    """
    # Refuse a checkpoint before its weights are read.
    check_classes(folder, index, [c for part in PARTS for c in components[part]], source or folder)
    family.sizes(folder, name, read_recommended(folder))
    left_out: dict[str, Any] = {
        component: None for part in PARTS if part not in parts for component in components[part]
    }
    left_out |= dict.fromkeys(family.unused)
    for component in family.looked_at & left_out.keys():
        left_out[component] = empty_component(folder, component, dtype)
    check_weights(folder, [c for part in PARTS if part in parts for c in components[part]], source or folder)
    import diffusers

    kinds: Any = {"default": dtype, "vae": torch_dtype(family.vae_dtype)} if family.vae_dtype else dtype
    pipeline_class = getattr(diffusers, family.pipeline_class)
    try:
        if "denoiser" not in parts:  # the modules' shapes without weights
            for component in components["denoiser"]:
                left_out[component] = empty_component(folder, component, dtype)
        pipeline = pipeline_class.from_pretrained(
            folder, dtype=kinds, use_safetensors=True, local_files_only=True, **left_out
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{source or folder} cannot be loaded as a {pipeline_class.__name__}: {reason}"
        ) from error
    check_whole(pipeline, [c for part in PARTS if part in parts for c in components[part]], source or folder)
    return pipeline


def torch_dtype(name: str) -> torch.dtype:
    """torch's type of a precision such as "bf16". Raises UserError."""
    found: torch.dtype = getattr(torch, DTYPES[parse_dtype(name)])
    return found


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name. Raises UserError if this machine cannot use it."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"device {str(device)!r} cannot be used on this machine ({reason}); give cpu, or a device that "
            "`motiondirector doctor` lists."
        ) from None
    return found


def check_classes(
    folder: Path, index: Mapping[str, Any], components: Collection[str], source: str | Path
) -> None:
    """Raise UserError if a component is a model of another class than the pipeline names: diffusers would load it."""
    for name in components:
        if (folder / name / "config.json").is_file():
            expected = index[name][1]
            found = read_config(folder, name).get("_class_name", expected)  # transformers' models have none
            if found != expected:
                raise UserError(
                    f"{source} has a {found} in {name}, and its model_index.json says {expected}; download the checkpoint again.",
                    code="unsupported_foundation",
                )


def check_weights(folder: Path, components: Collection[str], source: str | Path) -> None:
    """Raise NoSafetensors if components have none; the message says how to convert pickled weights."""
    with_weights = [name for name in components if (folder / name / "config.json").is_file()]
    lacking = [name for name in with_weights if not any((folder / name).glob("*.safetensors"))]
    if lacking:
        class_name = json.loads((folder / "model_index.json").read_text())["_class_name"]
        raise NoSafetensors(
            f"{source} has no safetensors for {' and '.join(lacking)}, and pickled weights (.bin) are not loaded; convert it "
            f"once in Python with diffusers.{class_name}.from_pretrained({str(source)!r}).save_pretrained('FOLDER', "
            "safe_serialization=True), and give that folder."
        )


def check_whole(pipeline: Any, components: Collection[str], source: str | Path) -> None:
    """Raise UserError if weights are missing in the files of loaded components: diffusers leaves them without values."""
    lacking = [
        f"{name}.{weight}"
        for name in components
        if isinstance(module := getattr(pipeline, name), torch.nn.Module)
        for weight, parameter in module.named_parameters()
        if parameter.is_meta
    ]
    if lacking:
        raise UserError(
            f"{source} lacks {len(lacking)} of its weights, such as {lacking[0]}; download the checkpoint again.",
            code="unsupported_foundation",
        )


def empty_component(folder: Path, component: str, dtype: torch.dtype) -> Any:
    """A component's modules on the meta device: names and shapes without values."""
    import diffusers

    config = json.loads((folder / component / "config.json").read_text())
    with torch.device("meta"):
        return getattr(diffusers, config["_class_name"]).from_config(config).to(dtype)


def quiet_libraries() -> None:
    """Silence the libraries' log messages and progress bars while a model loads."""
    # transformers imports torchao where it is installed, which tells what kernels it lacks.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
