"""AnimateDiff on Stable Diffusion 1.5: `AnimateDiffPipeline` with `UNetMotionModel`.

The temporal path is the motion modules, the spatial path the attention of the Stable Diffusion. A single frame skips the
motion modules, so appearance is learned by the picture model alone, as in the published method. The frame count is an
argument of each block's forward, so a recomputed forward skips the same layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from models.family import FamilySpec
from models.foundations.shared.pixels import to_uint8
from models.foundations.unets.frame_unet import FrameUNetFoundation, block_targets


def skip_motion_for_single_frames(unet: nn.Module) -> None:
    """Make every motion module the identity when `num_frames == 1`; other frame counts are unaffected."""
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            _identity_on_one_frame(module)


def _identity_on_one_frame(module: nn.Module) -> None:
    forward = module.forward

    @wraps(forward)
    def skipping(  # the arguments of the module, which the middle block gives by position
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        if num_frames == 1:
            return hidden_states
        found: Tensor = forward(
            hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs
        )
        return found

    module.forward = skipping  # type: ignore[method-assign]


class AnimateDiffFoundation(FrameUNetFoundation):
    """An `AnimateDiffPipeline`. Components that were not loaded (by a worker that only trains) are None."""

    adapter_key_prefix = "unet."  # read by `AnimateDiffPipeline.load_lora_weights`

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = block_targets(self.denoiser, AnimateDiffTransformer3D)
        skip_motion_for_single_frames(self.denoiser)

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        return to_uint8(self.pipeline.decode_latents(latents_BCfhw.to(self.device, self.pipeline.vae.dtype)))

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype, frames = self.denoiser.dtype, latents_BCfhw.shape[2]
        text_NLD = text_BLD.to(dtype).repeat_interleave(frames, dim=0)  # the model takes one for each frame
        return self.denoiser(latents_BCfhw.to(dtype), t_B, encoder_hidden_states=text_NLD).sample

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        kinds = (ResnetBlock2D, Transformer2DModel, AnimateDiffTransformer3D)
        return [module for module in self.denoiser.modules() if isinstance(module, kinds)]
