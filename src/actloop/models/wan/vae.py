"""Wan's video VAE as a frozen codec: `diffusers.AutoencoderKLWan`, standardised latents in and out.

    frames uint8 (b, T, H, W, 3) --encode--> latents (b, t, c, H/s, W/s) --decode--> frames      T = 1 + 4 (t - 1)

Latents are the posterior's mean, standardised per channel by the constants released with the model. The VAE is causal
in time and its first latent stands for the first frame alone: encoding that frame alone gives the same latent.

    Wan2.2   48 channels, s = 16     Fast-WAM, DreamZero 5B
    Wan2.1   16 channels, s = 8      DreamZero 14B
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from actloop.errors import CheckpointError, ContractError
from actloop.models.tensors import check_layout, fill, read_tensors
from actloop.models.wan.constants import STANDARDISATION
from actloop.models.wan.keys import VAE_WAN21, VAE_WAN22, Rule, released_name
from actloop.models.wan.library import library

DECODER = ("decoder", "post_quant_conv")


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """Sizes of the network: first widths of encoder and decoder, pixel block folded into channels before them, and
    whether stages have the residual shortcuts of Wan2.2."""

    channels: int
    width: int
    decoder_width: int
    patch: int
    residual: bool

    @property
    def spatial(self) -> int:
        """Pixels per side of a latent."""
        return 8 * self.patch


WAN22 = VAEConfig(channels=48, width=160, decoder_width=256, patch=2, residual=True)
WAN21 = VAEConfig(channels=16, width=96, decoder_width=96, patch=1, residual=False)


class WanCodec(nn.Module):
    """A frozen Wan VAE with the interface of `PatchCodec`.

    With `decoder` (name to tensor) the decoder is on demand: it takes no memory on the device but while decoding,
    and is fetched from those tensors each time.
    """

    temporal_stride = 4

    def __init__(
        self,
        vae: Any,
        config: VAEConfig,
        *,
        standardisation: tuple[tuple[float, ...], tuple[float, ...]],
        decoder: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.vae = vae.eval().requires_grad_(False)
        mean, std = (torch.tensor(values) for values in standardisation)
        if not len(mean) == len(std) == config.channels:
            raise ContractError(
                "codec.mean", f"expected {config.channels} means and as many stds, got {len(mean)} and {len(std)}"
            )
        # Not buffers: `.to(torch.bfloat16)` must not round them.
        self._mean, self._std = (rearrange(values, "c -> c 1 1") for values in (mean, std))
        self._parked: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}
        if decoder is not None:
            self._park(decoder)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        keep_decoder: bool = True,
    ) -> "WanCodec":
        """Read a released file (`Wan2.2_VAE.pth`, `Wan2.1_VAE.pth`, their safetensors, names with or without
        `model.`), or a diffusers folder or safetensors file; sizes follow from the tensors.

        `keep_decoder=False` keeps the decoder off the device but while decoding (see the class).

        Raises:
            CheckpointError: unreadable, no Wan VAE, or any missing, unexpected or mis-shaped tensor (named).
            MissingDependency: diffusers is not installed.
        """
        return cls.from_tensors(read_tensors(path), path, device=device, dtype=dtype, keep_decoder=keep_decoder)

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        keep_decoder: bool = True,
    ) -> "WanCodec":
        """As `load`, from tensors already read; `source` is named in errors.

        Raises:
            CheckpointError: see `load`.
            MissingDependency: diffusers is not installed.
        """
        tensors = _unprefixed(tensors)
        config, rules = _layout(tensors, source)
        with torch.device("meta"):
            vae = _build(config)
        names = {name: released_name(name, rules) for name in vae.state_dict()}
        check_layout({names[name]: tuple(t.shape) for name, t in vae.state_dict().items()}, tensors, source)
        ours = {name: tensors[theirs] for name, theirs in names.items()}
        late = None if keep_decoder else {name: t for name, t in ours.items() if name.startswith(DECODER)}
        codec = cls(vae, config, standardisation=_standardisation(Path(source), config), decoder=late)
        fill(vae, {name: ours[name] for name in vae.state_dict()}, source, dtype=dtype)
        return codec.to(device)

    @classmethod
    def untrained(
        cls, config: VAEConfig, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "WanCodec":
        """A codec with random weights, for tests and timings."""
        with torch.device(device):
            vae = _build(config)
        return cls(vae, config, standardisation=_released_constants(config, "untrained")).to(device, dtype)

    @property
    def spatial_stride(self) -> int:
        """Pixels per side of a latent."""
        return self.config.spatial

    @property
    def dtype(self) -> torch.dtype:
        """The network's arithmetic; latents are float32 whatever it is."""
        return self._example().dtype

    @property
    def device(self) -> torch.device:
        """Where it runs; frames and latents are brought here."""
        return self._example().device

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip.

        Raises:
            ContractError: `frames` is not 1, 5, 9, ...
        """
        if frames < 1 or (frames - 1) % self.temporal_stride:
            raise ContractError(
                "codec.frames", f"expected 1 + {self.temporal_stride}k frames (1, 5, 9, ...), got {frames}"
            )
        return 1 + (frames - 1) // self.temporal_stride

    @torch.no_grad()
    def encode(
        self, frames: UInt8[Tensor, "batch time height width 3"]
    ) -> Float[Tensor, "batch latent_time channels rows columns"]:
        """Standardised latents of frames in 0..255.

        Raises:
            ContractError: not 1 + 4k frames, sides that are no multiples of the stride, or not uint8 RGB.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            raise ContractError(
                "codec.frames",
                f"expected uint8 (batch, time, height, width, 3), got {frames.dtype} {tuple(frames.shape)}",
            )
        video = rearrange(frames.to(self.device), "b t h w c -> b c t h w")
        return self.encode_video(video.float() / 127.5 - 1)

    @torch.no_grad()
    def encode_video(
        self, video: Float[Tensor, "batch 3 time height width"]
    ) -> Float[Tensor, "batch latent_time channels rows columns"]:
        """Standardised latents of pictures in -1..1.

        Raises:
            ContractError: not 1 + 4k frames, or sides that are no multiples of the stride.
        """
        height, width = video.shape[-2:]
        self.latent_frames(video.shape[2])
        if not height or not width or height % self.spatial_stride or width % self.spatial_stride:
            raise ContractError(
                "codec.frames",
                f"sides must be multiples of {self.spatial_stride}, got {height} x {width} (height x width)",
            )
        raw: Tensor = self.vae.encode(video.to(self.device, self.dtype)).latent_dist.mode()
        mean, std = self.standard()
        return (rearrange(raw, "b c t h w -> b t c h w").float() - mean) / std

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "batch latent_time channels rows columns"]
    ) -> UInt8[Tensor, "batch time height width 3"]:
        """The frames that the latents stand for; t latent frames give 1 + 4 (t - 1)."""
        video = self.decode_video(latents)
        frames = ((video.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return rearrange(frames, "b c t h w -> b t h w c")

    @torch.no_grad()
    def decode_video(
        self, latents: Float[Tensor, "batch latent_time channels rows columns"]
    ) -> Float[Tensor, "batch 3 time height width"]:
        """The pictures that the latents stand for, in -1..1.

        Raises:
            ContractError: another number of channels.
        """
        if latents.ndim != 5 or latents.shape[2] != self.channels:
            raise ContractError(
                "codec.latents",
                f"expected (batch, time, {self.channels}, rows, columns), got {tuple(latents.shape)}",
            )
        mean, std = self.standard()
        raw = latents.to(self.device).float() * std + mean
        with self._decoder():
            video: Tensor = self.vae.decode(rearrange(raw, "b t c h w -> b c t h w").to(self.dtype)).sample
        return video

    def _example(self) -> Tensor:
        example: Tensor = next(self.vae.encoder.parameters())
        return example

    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent channel, shaped to be taken from latents, on their device."""
        self._mean, self._std = self._mean.to(self.device), self._std.to(self.device)
        return self._mean, self._std

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """All weights, those of a decoder that is fetched on demand included."""
        held: dict[str, Tensor] = super().state_dict(*args, **kwargs)
        for part, (_, tensors) in self._parked.items():
            held |= {f"vae.{part}.{name}": tensor.to(self.dtype) for name, tensor in tensors.items()}
        return held

    def _park(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the decoder out of the module, so that `.to(device)` does not carry it along."""
        for part in DECODER:
            held = {k.removeprefix(f"{part}."): t for k, t in tensors.items() if k.startswith(f"{part}.")}
            self._parked[part] = (getattr(self.vae, part).to("meta"), held)
            setattr(self.vae, part, None)

    @contextmanager
    def _decoder(self) -> Iterator[None]:
        """The decoder, in place for as long as it is needed."""
        try:
            for part, (module, tensors) in self._parked.items():
                ready = {name: tensor.to(self.device, self.dtype) for name, tensor in tensors.items()}
                module.load_state_dict(ready, assign=True)
                setattr(self.vae, part, module)
            yield
        finally:
            for part, (module, _) in self._parked.items():
                setattr(self.vae, part, None)
                module.to("meta")


def _build(config: VAEConfig) -> Any:
    return library("diffusers").AutoencoderKLWan(
        base_dim=config.width,
        decoder_base_dim=config.decoder_width,
        z_dim=config.channels,
        is_residual=config.residual,
        in_channels=3 * config.patch**2,
        out_channels=3 * config.patch**2,
        patch_size=config.patch if config.patch > 1 else None,
        scale_factor_spatial=config.spatial,
    )


def _unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the wrapper's `model.`, which a file has everywhere or nowhere."""
    everywhere = all(name.startswith("model.") for name in tensors)
    return {name.removeprefix("model.") if everywhere else name: tensor for name, tensor in tensors.items()}


def _layout(tensors: Mapping[str, Tensor], path: str | Path) -> tuple[VAEConfig, tuple[Rule, ...]]:
    """Sizes, and the rules for names (none where the names are the library's)."""
    released = "encoder.conv1.weight" in tensors
    if released:
        first, latent, last = "encoder.conv1.weight", "conv2.weight", "decoder.head.0.gamma"
        residual = any(name.startswith("encoder.downsamples.0.downsamples.") for name in tensors)
    else:
        first, latent, last = "encoder.conv_in.weight", "post_quant_conv.weight", "decoder.norm_out.gamma"
        residual = any(name.startswith("encoder.down_blocks.0.resnets.") for name in tensors)
    for name, axes in ((first, 5), (latent, 5), (last, 4)):
        if name not in tensors or tensors[name].ndim != axes:
            raise CheckpointError(f"{path}: not a Wan VAE: expected {name} with {axes} axes")
    patch = {3: 1, 12: 2}.get(tensors[first].shape[1])
    if patch is None:
        raise CheckpointError(f"{path}: {first}: expected 3 or 12 input channels, got {tensors[first].shape[1]}")
    config = VAEConfig(
        channels=tensors[latent].shape[0],
        width=tensors[first].shape[0],
        decoder_width=tensors[last].shape[0],
        patch=patch,
        residual=residual,
    )
    return config, (VAE_WAN22 if residual else VAE_WAN21) if released else ()


def _standardisation(path: Path, config: VAEConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The constants: those beside the weights (a diffusers folder), else the released ones of that many channels."""
    plain = path / "config.json"
    if path.is_dir() and plain.is_file():
        try:
            values = json.loads(plain.read_text())
            return tuple(map(float, values["latents_mean"])), tuple(map(float, values["latents_std"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{plain}: expected latents_mean and latents_std ({error})") from error
    return _released_constants(config, path)


def _released_constants(config: VAEConfig, source: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.channels not in STANDARDISATION:
        known = " or ".join(str(channels) for channels in STANDARDISATION)
        raise CheckpointError(f"{source}: expected a VAE of {known} channels, whose constants are known, got {config}")
    return STANDARDISATION[config.channels]
