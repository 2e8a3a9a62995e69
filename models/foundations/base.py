"""A text-to-video foundation model, as training and serving see it.

One small interface: encode text, encode frames, noise, predict, decode, which layers are spatial and
which temporal, and a fingerprint of the weights. Each family (one module or folder next to this one) implements
it around a stock diffusers pipeline; nothing else in the project knows which model it is.

Shapes: B samples, F frames, H W pixels, C f h w latents (f < F for temporally compressed ones), L D text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from infra.errors import InvalidInput
from models.family import FamilySpec
from models.foundations.shared.fingerprint import fingerprint_folder
from models.foundations.shared.layout import TokenLayout, steps
from models.foundations.shared.noise import LinearStep, NoiseProcess
from models.generation import InputImage
from models.lora.bank import AdapterBank
from models.lora.checkpointing import checkpoint_blocks
from models.lora.routing import LoraPath, Routing
from models.lora.slots import Rank
from models.sizes import Bucket as Bucket
from models.sizes import Defaults as Defaults
from models.sizes import Sizes
from models.text import TextLimit


class Foundation(ABC):
    """A resident text-to-video model. Subclasses set `denoiser`, `targets` and `noise` in `__init__`."""

    denoiser_name: ClassVar[str]  # the component's name in the pipeline: "unet", "transformer"
    # The prefix of LoRA keys that stock tools expect for this class: PEFT's or the pipeline's loader's.
    adapter_key_prefix: ClassVar[str]

    name: str
    source: str  # path or hub id
    folder: Path  # the checkpoint on this machine
    pipeline: Any
    denoiser: Any  # an nn.Module with diffusers' `config`
    targets: dict[LoraPath, tuple[str, ...]]
    more_targets: tuple[str, ...] = ()  # layers that only adapters of other tools change (`widen`)
    sizes: Sizes
    noise: NoiseProcess
    recommended: dict[str, Any]  # settings that suit this model, from its recommended.yaml
    compiles: bool = True  # whether a forward is one graph for torch.compile
    batch_rounding: float = 1e-4  # how far float32 latents of a mixed batch may be from those made alone
    takes_image: bool = False  # a video begins with a given image
    embeds_guidance: bool = False  # the denoiser takes the guidance scale as an input, so one row is enough
    # A model of several denoisers, each for its own range of noise, has their names, the noisiest first, and the noise
    # level (as a fraction of the schedule, like the draws of training) at which the second takes over.
    experts: tuple[str, ...] = ()
    boundary: float | None = None

    quantization: str = "none"  # of the denoiser's blocks (models/quantizing.py)

    _bank: AdapterBank | None = None

    def __init__(
        self,
        pipeline: Any,
        spec: FamilySpec,
        *,
        name: str,
        source: str,
        folder: Path,
        recommended: dict[str, Any],
    ) -> None:
        self.pipeline, self.spec = pipeline, spec
        self.name, self.source, self.folder, self.recommended = name, source, folder, recommended
        for module in (pipeline.vae, pipeline.text_encoder):
            if module is not None:  # not loaded by a worker that only trains
                module.requires_grad_(False).eval()
        self.denoiser = self._denoiser_of(pipeline).requires_grad_(False).eval()
        self.sizes = spec.sizes(folder, name, recommended)

    @property
    def trained_targets(self) -> dict[LoraPath, tuple[str, ...]]:
        """The layers that training adapts, which every adapter has."""
        more = set(self.more_targets)
        return {
            path: tuple(name for name in names if name not in more) for path, names in self.targets.items()
        }

    def widen(self) -> None:
        """Also let adapters of the temporal path change `more_targets`, so that those of other tools can be used.

        Before a bank is added. Regions then have no meaning: some of these layers act on the text.
        """
        assert self._bank is None, "widen a foundation before its bank is added"
        own = self.trained_targets
        self.targets = {**own, "temporal": (*own["temporal"], *self.more_targets)}

    def _denoiser_of(self, pipeline: Any) -> Any:
        """The module whose layers adapters change."""
        return getattr(pipeline, self.denoiser_name)

    @property
    def denoisers(self) -> dict[str, tuple[str, Any]]:
        """The pipeline's denoisers by the part of the adapters' layer names that is theirs: (component, module)."""
        return {"": (self.denoiser_name, self.denoiser)}

    @property
    def family(self) -> str:
        """The name of its family."""
        return self.spec.name

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the checkpoint's weights and configurations; adapters and latents are bound to it."""
        return fingerprint_folder(self.folder)

    @cached_property
    def text_limit(self) -> TextLimit:
        """How much of a prompt the text encoder reads."""
        return self.spec.text_limit(self.folder, self.name)

    @property
    def has_denoiser(self) -> bool:
        """Whether the denoiser was loaded. Without it a foundation can encode but not make videos."""
        return _has_weights(self.denoiser)

    @property
    def device(self) -> torch.device:
        device = next(self.denoiser.parameters()).device
        if device.type == "meta":  # denoiser not loaded: use the device of the VAE or the text encoder
            modules = [m for m in self.pipeline.components.values() if isinstance(m, nn.Module)]
            found = (next(module.parameters()).device for module in modules)
            return next((one for one in found if one.type != "meta"), device)
        return device

    def to(self, device: str | torch.device) -> None:
        """Move what was loaded. Not with a bank: its slots would no longer be views of one tensor."""
        before = self.device
        if before == torch.device(device):
            return
        assert self._bank is None, "move a foundation before its bank is added"
        move_parts(self.pipeline, device)
        if before.type == "cuda":
            torch.cuda.empty_cache()  # else this process would keep the memory

    @property
    def dtype(self) -> torch.dtype:
        # diffusers' answer, which skips the few parameters it keeps in float32 (Wan's modulation tables).
        return self.denoiser.dtype  # type: ignore[return-value]

    @property
    def bank(self) -> AdapterBank | None:
        return self._bank

    def add_bank(
        self,
        slots: dict[LoraPath, int],
        rank: Rank,
        *,
        trainable: bool = False,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        tokens: int = 0,
        without: Collection[LoraPath] = (),
    ) -> AdapterBank:
        """Put an adapter bank behind this model's target layers (replacing any other) and return it.

        Args:
            tokens: appearance tokens of each spatial slot (models/lora/tokens.py).
            without: paths whose slots get no LoRA layers, only appearance tokens.
        """
        if self._bank is not None:
            self._bank.remove()
        self._bank = AdapterBank(
            self.denoiser,
            {path: names for path, names in self.targets.items() if path not in without},
            slots,
            rank,
            trainable=trainable,
            seed=seed,
            dtype=dtype,
            tokens=(tokens, self.text_width) if tokens else None,
            parts=self.experts,
        )
        return self._bank

    @property
    @abstractmethod
    def text_width(self) -> int:
        """Width D of the text embeddings that the denoiser takes."""

    @property
    def text_shape(self) -> tuple[int, int]:
        """The shape of what `encode_text` makes of a prompt."""
        return (self.text_limit.tokens, self.text_width)

    @contextmanager
    def temporary_bank(self, slots: dict[LoraPath, int], rank: Rank, **options: Any) -> Iterator[AdapterBank]:
        """A temporary bank for the block, made by `add_bank`; the previous bank is restored afterwards."""
        before, self._bank = self._bank, None
        if before is not None:
            before.remove()
        try:
            yield self.add_bank(slots, rank, **options)
        finally:
            if self._bank is not None:
                self._bank.remove()
            self._bank = before
            if before is not None:
                before.attach(self.denoiser)

    @property
    def defaults(self) -> Defaults:
        """The settings for a request that gives none."""
        return self.sizes.defaults

    def check_bucket(self, bucket: Bucket) -> None:
        """Raise InvalidInput if this model cannot make a video of that size."""
        self.sizes.check(bucket)

    @abstractmethod
    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """(C, f, h, w) of a video's latents."""

    def clip_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """The shape of a clip to learn from (`encode_both`): more channels than `latent_shape` with a condition."""
        return self.latent_shape(bucket)

    def draw_noise(self, bucket: Bucket, generator: torch.Generator) -> Tensor:
        """A video's initial noise, float32 [C, f, h, w] on the CPU, in the order in which the stock pipeline draws it."""
        return torch.randn(self.latent_shape(bucket), generator=generator)

    def latent_layout(self, bucket: Bucket) -> TokenLayout:
        """The frames and pixels of a video of this size that each latent represents, in order f, h, w."""
        _, frames, height, width = self.latent_shape(bucket)
        # The first frame has its own latent frame (which matters if the VAE compresses time).
        ends = [1 + frame * self.sizes.temporal_scale for frame in range(frames)]
        starts = [0, *ends[:-1]]
        return TokenLayout(
            "of the video",
            tuple(range(start, end) for start, end in zip(starts, ends, strict=True)),
            steps(height, 1, self.sizes.spatial_scale),
            steps(width, 1, self.sizes.spatial_scale),
        )

    @abstractmethod
    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        """The frames and pixels of a video of this size that the tokens of a target layer represent.

        Every target layer must have one: regions of adapters need a place for each token. Layers that act on
        the text (keys and values of cross-attention) have none, because what an adapter changes there reaches
        every pixel. A family that adds such targets must apply the region where pixels read them instead.
        """

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Embeddings [B, L, D], padded to the same L for every prompt."""

    def condition(self, image: InputImage, text_RLD: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor]:
        """What a model that takes an image is asked with: channels [1, C, f, h, w] after the latents', and the text."""
        raise NotImplementedError

    def noised(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """The denoiser's input and its target for latents of `encode_both`."""
        return self.noise.add(x0, eps, t_B), self.noise.target(x0, eps, t_B)

    def with_guidance(self, text_BLD: Tensor, scale: float) -> Tensor:
        """The text with this guidance scale, for a model that embeds it."""
        raise NotImplementedError

    @abstractmethod
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] -> latents [B, C, f, h, w], scaled for the denoiser; the posterior's mode."""

    @abstractmethod
    def encode_frames(self, video_BCFHW: Tensor) -> Tensor:
        """Encode each frame as a one-frame video: [B, F, C, f, h, w], f of one frame. The spatial path trains on these."""

    def encode_both(self, video_BCFHW: Tensor) -> tuple[Tensor, Tensor]:
        """What training keeps of clips: the results of `encode_video` and `encode_frames`.

        One pass if the VAE has no time dimension. A model that takes more than latents has the rest as further
        channels, which `noised` passes on.
        """
        return self.encode_video(video_BCFHW), self.encode_frames(video_BCFHW)

    @abstractmethod
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        """Latents -> uint8 frames [B, F, H, W, 3] on the CPU."""

    @abstractmethod
    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor: ...

    def predict(
        self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor, routing: Routing | None = None
    ) -> Tensor:
        """The denoiser's prediction [B, C, f, h, w]; each sample uses the adapters in its routing row.

        With a condition the latents have its channels after their own.

        Latents of one frame skip temporal layers in models with separate ones (the spatial path).
        """
        assert routing is None or self._bank is not None, "routing without a bank: call add_bank first"
        with self._bank.use(routing) if self._bank is not None else nullcontext():
            return self._predict(latents_BCfhw, t_B, text_BLD)

    @abstractmethod
    def scheduler_kinds(self) -> tuple[str, ...]:
        """Names that `make_scheduler` accepts; the first is the checkpoint's own."""

    @abstractmethod
    def _make_scheduler(self, kind: str) -> Any: ...

    @property
    def extra_frames(self) -> int:
        """Latent frames at the start of a video that `decode` leaves out."""
        return 0

    def make_scheduler(self, kind: str | None = None) -> Any:
        """A new diffusers scheduler for one request, because schedulers keep state. Raises InvalidInput."""
        kinds = self.scheduler_kinds()
        if kind is not None and kind not in kinds:
            raise InvalidInput(
                f"scheduler {kind!r} does not suit {self.name}; expected one of {', '.join(kinds)}.",
                code="invalid_scheduler",
            )
        return self._make_scheduler(kind or kinds[0])

    def set_timesteps(self, scheduler: Any, steps: int, bucket: Bucket) -> None:
        """Give a scheduler its timesteps for a video of this size, as the stock pipeline does."""
        scheduler.set_timesteps(steps, device=self.device)

    @abstractmethod
    def linear_steps(self, steps: int) -> list[LinearStep]:
        """Deterministic sampling of the first order, noisiest step first: DDIM, or Euler's method for flow.

        models/inversion.py solves these steps for their input.
        """

    def clean_estimate(self, scheduler: Any, output: Any, before: Tensor, answer: Tensor) -> Tensor | None:
        """The clean latents that a scheduler's last `step` estimated, or None if it estimates none.

        Args:
            output: what the step returned for the prediction `answer` on the latents `before`.
        """
        if getattr(output, "pred_original_sample", None) is not None:
            return output.pred_original_sample
        if scheduler.config.get("predict_x0") or "++" in scheduler.config.get("algorithm_type", ""):
            return scheduler.model_outputs[-1]  # DPM++ and UniPC convert every prediction to it first
        return None

    @abstractmethod
    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        """The blocks whose activations gradient checkpointing drops."""

    def enable_gradient_checkpointing(self) -> Callable[[], None]:
        """Trade compute for memory in training, with the same gradients; return a function that undoes it."""
        return checkpoint_blocks(self.checkpointed_blocks(), lambda: self._bank)

    @contextmanager
    def gradient_checkpointing(self, enabled: bool = True) -> Iterator[None]:
        """`enable_gradient_checkpointing` for the block, if `enabled`."""
        disable = self.enable_gradient_checkpointing() if enabled else None
        try:
            yield
        finally:
            if disable is not None:
                disable()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.fingerprint[:12]}, {self.device}, {self.dtype})"


def move_parts(pipeline: Any, device: str | torch.device, but: Collection[str] = ()) -> None:
    """Move a pipeline's modules, except `but` and components on the meta device (not loaded)."""
    for name, module in pipeline.components.items():
        if name not in but and isinstance(module, nn.Module) and _has_weights(module):
            module.to(device)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters()).device.type != "meta"
