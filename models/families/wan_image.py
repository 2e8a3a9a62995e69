"""The family of `WanImageToVideoPipeline` (models/foundations/wan/wan_image.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.families.wan import AUTHORS, WanSpec
from models.family import Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes

if TYPE_CHECKING:
    from models.foundations.base import Foundation


@register
class WanImageSpec(WanSpec):
    name = "wan-image"
    title = "Wan 2.1 and 2.2 (image to video)"
    pipeline_class = "WanImageToVideoPipeline"
    components: ClassVar = {
        **WanSpec.components,
        "vae": (
            "vae",
            "image_encoder",
            "image_processor",
        ),  # what reads pixels; the last two in Wan 2.1 alone
    }
    defaults: ClassVar = {
        "2.1": Sourced(
            Defaults(Bucket(81, 480, 832), fps=16, num_inference_steps=50, guidance_scale=5.0),
            "defaults of diffusers' WanImageToVideoPipeline; fps: its example",
        ),
        "2.2 14B": Sourced(
            Defaults(Bucket(81, 480, 832), fps=16, num_inference_steps=40, guidance_scale=3.5),
            f"{AUTHORS}/wan_i2v_A14B.py, fps: shared_config.py",
        ),
    }
    limits: ClassVar = (
        "a first frame alone, no last one",
        "a training renders no sample videos, and evaluations make none: they have no image to begin with",
        "2.1: no training, because training does not keep CLIP's vectors of a clip",
        "2.2 5B from an image is refused",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        if read_config(folder, "").get("expand_timesteps"):
            raise UserError(
                f"{name} is Wan 2.2 5B from an image, which is not supported; load it as a WanPipeline to make videos from "
                "text, or use Wan 2.2 I2V A14B.",
                code="unsupported_foundation",
            )
        transformer, vae = read_config(folder, "transformer"), read_config(folder, "vae")
        channels = 2 * (vae.get("z_dim") or 16) + (vae.get("scale_factor_temporal") or 4)
        if transformer.get("in_channels") != channels:
            raise UserError(
                f"{name} has a transformer that takes {transformer.get('in_channels')} channels; expected {channels} of Wan's "
                "image-to-video. Is it a text-to-video transformer? Its pipeline is WanPipeline.",
                code="unsupported_foundation",
            )
        return super().sizes(folder, name, recommended)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.wan.wan_image import WanImageFoundation

        return WanImageFoundation
