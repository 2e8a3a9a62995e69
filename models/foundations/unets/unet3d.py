"""ModelScope, ZeroScope and the embedded sprite model: `TextToVideoSDPipeline` with `UNet3DConditionModel`.

Spatial and temporal transformer blocks are separate modules (frame_unet.py has what this shares). A single frame skips every temporal layer (transformers and convolutions), as in the published method's spatial path.
The frame count is an argument of each block's forward, so a recomputed forward skips the same layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import (
    TransformerTemporalModel,
    TransformerTemporalModelOutput,
)
from torch import Tensor, nn
from torch.nn import functional

from models.family import FamilySpec
from models.foundations.shared.pixels import to_uint8
from models.foundations.unets.frame_unet import FrameUNetFoundation, block_targets
from models.lora.routing import LoraPath


def lora_targets(unet: nn.Module) -> dict[LoraPath, tuple[str, ...]]:
    """The target Linears of the two kinds of transformers.

    A ZeroScope-shaped UNet has 96 spatial and 170 temporal target modules (tested).
    """
    return block_targets(unet, TransformerTemporalModel)


def skip_temporal_for_single_frames(unet: nn.Module) -> None:
    """Make every temporal layer the identity when `num_frames == 1`; other frame counts are unaffected."""
    for module in unet.modules():
        if isinstance(module, TemporalConvLayer):
            _identity_on_one_frame(module, lambda x, return_dict: x)
        elif isinstance(module, TransformerTemporalModel):
            _identity_on_one_frame(
                module,
                lambda x, return_dict: TransformerTemporalModelOutput(sample=x) if return_dict else (x,),
            )


def _identity_on_one_frame(module: nn.Module, identity: Any) -> None:
    forward = module.forward

    @wraps(forward)
    def skipping(hidden_states: Tensor, *args: Any, num_frames: int = 1, **kwargs: Any) -> Any:
        if num_frames == 1:
            return identity(hidden_states, kwargs.get("return_dict", True))
        return forward(hidden_states, *args, num_frames=num_frames, **kwargs)

    module.forward = skipping  # type: ignore[method-assign]


def convolve_over_frames_in_two_dimensions(unet: nn.Module) -> None:
    """On a CPU, compute the temporal layers' (3, 1, 1) convolutions over [B, C, F, H, W] in two dimensions.

    They become (3, 1) convolutions over [B, C, F, H * W], with the same sums. For the 3D form, PyTorch
    uses a kernel (`slow_conv3d`) that takes three times as long on one thread; a whole step of the
    embedded model takes 1.09 times as long (benchmarks/temporal_convolution.py).
    """
    for module in unet.modules():
        if isinstance(module, nn.Conv3d) and _over_frames_alone(module):
            _in_two_dimensions(module)


def _over_frames_alone(conv: nn.Conv3d) -> bool:
    frame = (conv.kernel_size[1:], conv.padding[1:], conv.stride, conv.dilation)
    return frame == ((1, 1), (0, 0), (1, 1, 1), (1, 1, 1)) and conv.padding_mode == "zeros"


def _in_two_dimensions(conv: nn.Conv3d) -> None:
    forward = conv.forward

    @wraps(forward)
    def convolve(x_BCFHW: Tensor) -> Tensor:
        if x_BCFHW.device.type != "cpu":
            return forward(x_BCFHW)
        size = x_BCFHW.shape[-2:]
        out = functional.conv2d(
            x_BCFHW.flatten(3),
            conv.weight[..., 0],
            conv.bias,
            padding=(int(conv.padding[0]), 0),
            groups=conv.groups,
        )
        return out.unflatten(3, size)

    conv.forward = convolve  # type: ignore[method-assign, assignment]


class UNet3DFoundation(FrameUNetFoundation):
    """A `TextToVideoSDPipeline`. Components that were not loaded (by a worker that only trains) are None."""

    adapter_key_prefix = "base_model.model."  # PEFT's, since diffusers has no LoRA loader for this class

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = lora_targets(self.denoiser)
        skip_temporal_for_single_frames(self.denoiser)
        convolve_over_frames_in_two_dimensions(self.denoiser)

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        return to_uint8(self.pipeline.decode_latents(latents_BCfhw.to(self.device, self.pipeline.vae.dtype)))

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype = self.denoiser.dtype
        return self.denoiser(latents_BCfhw.to(dtype), t_B, encoder_hidden_states=text_BLD.to(dtype)).sample

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        kinds = (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel)
        return [module for module in self.denoiser.modules() if isinstance(module, kinds)]
