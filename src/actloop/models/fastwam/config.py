"""What distinguishes one Fast-WAM from another, as data: the variant and the sizes."""

import itertools
from dataclasses import dataclass, replace

from actloop.errors import ContractError, UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Where prediction lives: who sees what, and what is denoised when.

    `action_sees_future`: the imagined future conditions the actions. `imagine_first`: it is denoised fully before
    them (in training the actions then see a separate copy of it, which is clean, or noised for `noised_copy_share` of
    the samples). `imagined_share` of the training samples let their actions see that copy: below 1 the model acts
    with and without imagining. `video_sees_actions`: the future is that of a given chunk. `video_weight`: weight of
    the video loss.
    """

    name: str
    action_sees_future: bool = False
    imagine_first: bool = False
    video_sees_actions: bool = False
    video_weight: float = 1.0
    imagined_share: float = 1.0
    noised_copy_share: float = 0.0

    @property
    def trains_video(self) -> bool:
        return self.video_weight > 0

    @property
    def may_skip_future(self) -> bool:
        """Whether it acts without computing a future: always, or on request."""
        return not self.action_sees_future or self.imagined_share < 1


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(name="no-cotrain", video_weight=0.0),
        Variant(name="fast"),
        Variant(name="joint", action_sees_future=True),
        Variant(name="idm", action_sees_future=True, imagine_first=True, noised_copy_share=0.5),
        Variant(name="optional-idm", action_sees_future=True, imagine_first=True, imagined_share=0.5),
        Variant(name="action-conditioned", video_sees_actions=True),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """One transformer of the mixture; the attention width (heads x head_dim) is shared, the hidden width is not."""

    hidden: int
    ffn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FastWAMConfig:
    """Sizes of the network; the defaults are the small one.

    `latent_*` describe what the codec gives; `future_offsets` are the ticks after the observation up to which each
    future latent frame reaches. `stem_channels` > 0 adds the convolutional `Stem` on the first frame with its
    keypoints per camera (`cameras` lie side by side in the picture), `vocabulary` > 0 learned word embeddings (0: the
    context comes from a frozen text encoder). `predicts_change`: the video head gives the change against the first
    frame, from which the velocity follows, instead of the velocity itself. `action_samples` is the number of noise
    draws per observation in training. `committed_max` > 0 trains chunks that continue up to so many actions, which half
    of the draws are given (real-time chunking; continuation.py). The two shifts are those of training and of sampling,
    unless video has another one to sample with (`video_sampling_shift`; 0: the same). `imagination_steps`: the
    steps of a future that nothing acts on; one gives the expected frame, more give a sample of what may come.
    """

    variant: str = "fast"
    video: ExpertConfig = ExpertConfig(hidden=128, ffn=256)
    action: ExpertConfig = ExpertConfig(hidden=128, ffn=256)
    layers: int = 2
    heads: int = 4
    head_dim: int = 32
    text_dim: int = 64
    freq_dim: int = 64
    eps: float = 1e-6
    latent_channels: int = 32
    latent_height: int = 8
    latent_width: int = 16
    future_offsets: tuple[int, ...] = (8,)
    horizon: int = 16
    action_dim: int = 4
    state_dim: int = 4
    vocabulary: int = 0
    text_tokens: int = 16
    stem_channels: int = 32
    keypoints: int = 16
    cameras: int = 2
    predicts_change: bool = True
    video_shift: float = 3.0
    video_sampling_shift: float = 0.0
    action_shift: float = 5.0
    bell_weighting: bool = False
    action_samples: int = 1
    committed_max: int = 0
    denoising_steps: int = 4
    imagination_steps: int = 1

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UnknownNameError("variant", self.variant, VARIANTS)
        if self.head_dim // 3 % 2:
            raise ContractError(
                "head_dim", f"a third of it, rounded down, must be even for 3-D RoPE; got {self.head_dim}"
            )
        if self.stem_channels and self.latent_width % self.cameras:
            raise ContractError("cameras", f"{self.cameras} do not divide {self.latent_width} latent columns")
        if self.latent_height % 2 or self.latent_width % 2:
            raise ContractError("latents", f"must tile into 2 x 2, got {self.latent_height} x {self.latent_width}")
        if not 0 <= self.committed_max < self.horizon:
            raise ContractError(
                "committed_max",
                f"expected 0 to {self.horizon - 1}, so that one of {self.horizon} actions is left to "
                f"decide; got {self.committed_max}",
            )
        if not self.future_offsets or any(b <= a for a, b in itertools.pairwise((0, *self.future_offsets))):
            raise ContractError("future_offsets", f"expected rising ticks from 1 on, got {self.future_offsets}")

    @property
    def future_frames(self) -> int:
        return len(self.future_offsets)

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def rows(self) -> int:
        return self.latent_height // 2

    @property
    def columns(self) -> int:
        return self.latent_width // 2

    @property
    def patch_dim(self) -> int:
        return self.latent_channels * 4

    @classmethod
    def tiny(cls, **changes: object) -> "FastWAMConfig":
        """Trains on a CPU in seconds; for tests."""
        base = cls(
            video=ExpertConfig(hidden=48, ffn=64),
            action=ExpertConfig(hidden=32, ffn=64),
            layers=2,
            heads=2,
            head_dim=24,
            text_dim=16,
            freq_dim=16,
            latent_channels=8,
            latent_height=4,
            latent_width=4,
            future_offsets=(2,),
            horizon=4,
            vocabulary=8,
            stem_channels=8,
            keypoints=4,
            cameras=1,
            denoising_steps=2,
        )
        return replace(base, **changes)  # type: ignore[arg-type]

    @classmethod
    def full(cls, **changes: object) -> "FastWAMConfig":
        """The released 6 B network (defaults: LIBERO's two cameras, 7 actions, 8 states; paper, section 4).

        Wan2.2-TI2V-5B beside an action expert of hidden width 1024; the released loss weights, shifts and schedule.
        """
        base = cls(
            video=ExpertConfig(hidden=3072, ffn=14336),
            action=ExpertConfig(hidden=1024, ffn=4096),
            layers=30,
            heads=24,
            head_dim=128,
            text_dim=4096,
            freq_dim=256,
            latent_channels=48,
            latent_height=14,
            latent_width=28,
            future_offsets=(16, 32),
            horizon=32,
            action_dim=7,
            state_dim=8,
            text_tokens=128,
            stem_channels=0,
            keypoints=0,
            predicts_change=False,
            video_shift=5.0,
            bell_weighting=True,
            denoising_steps=10,
            imagination_steps=10,
        )
        return replace(base, **changes)  # type: ignore[arg-type]
