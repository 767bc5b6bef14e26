"""The sizes of a DreamZero, the geometry of its clips, and the choices in which ours and the released one differ."""

from dataclasses import dataclass, replace

from actloop.errors import ContractError, UnknownNameError

CLIP_TOKENS, CLIP_DIM = 257, 1280  # what the released image tower gives
MASK_CHANNELS = 4  # of the first-frame condition: 1 on the first latent frame, else 0

MEMORIES = ("sliding", "recomputed", "released")


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamZeroConfig:
    """Sizes of the network; the defaults are the small one.

    A clip is an anchor frame and blocks of `block_frames` latent frames; each block owns `block_actions` actions and
    one state. `window_blocks`: blocks that are seen at a time, the current one among them, beside the anchor.

    `memory` says what happens past the window (memory.py): the oldest block leaves ("sliding"), the window is computed
    anew without it ("recomputed"), or all is forgotten and the newest frame becomes the anchor ("released").
    `state_sees_all`: in acting, a state token sees what its block sees, as released; in training it sees itself alone.
    `first_frame_condition`: the latents of the anchor are channels of every frame's input. `image_tokens`: tokens that
    the image tower gives of the anchor, 0 without one. `vocabulary` > 0: learned word embeddings instead of the
    context of a frozen text encoder. `gates`: what the gates of a fresh block start at (released weights bring theirs).
    `stem_channels` > 0 adds convolutions on every clean frame with so many `keypoints` per camera (stem.py; `cameras`
    lie side by side in the picture). `predicts_change`: the video head gives the change against the frame at the start
    of the block, from which the velocity follows, instead of the velocity itself.
    """

    dim: int = 128
    ffn: int = 256
    heads: int = 4
    layers: int = 3
    freq_dim: int = 64
    text_dim: int = 64
    text_tokens: int = 16
    vocabulary: int = 0
    image_dim: int = CLIP_DIM
    image_tokens: int = 0
    latent_channels: int = 32
    latent_height: int = 8
    latent_width: int = 16
    first_frame_condition: bool = False
    block_frames: int = 2
    block_actions: int = 8
    window_blocks: int = 4
    action_dim: int = 4
    state_dim: int = 4
    action_hidden: int = 64
    eps: float = 1e-6
    memory: str = "sliding"
    state_sees_all: bool = False
    gates: float = 1.0
    stem_channels: int = 0
    keypoints: int = 16
    cameras: int = 1
    predicts_change: bool = False

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise UnknownNameError("memory", self.memory, MEMORIES)
        if self.dim % self.heads or self.head_dim % 2 or self.head_dim < 6:
            raise ContractError(
                "dim", f"expected {self.heads} heads of an even width, 6 or more; got {self.dim} / {self.heads}"
            )
        if self.freq_dim % 2:
            raise ContractError("freq_dim", f"expected an even number, got {self.freq_dim}")
        if self.latent_height % 2 or self.latent_width % 2:
            raise ContractError("latents", f"must tile into 2 x 2, got {self.latent_height} x {self.latent_width}")
        counts = ("layers", "block_frames", "block_actions", "window_blocks", "action_dim", "state_dim", "text_tokens")
        for name in counts:
            if getattr(self, name) < 1:
                raise ContractError(name, f"expected 1 or more, got {getattr(self, name)}")
        if self.stem_channels and (self.stem_channels % 4 or self.latent_width % self.cameras):
            raise ContractError(
                "stem_channels",
                f"expected a multiple of 4, and {self.cameras} cameras side by side in {self.latent_width} columns; "
                f"got {self.stem_channels}",
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def rows(self) -> int:
        return self.latent_height // 2

    @property
    def columns(self) -> int:
        return self.latent_width // 2

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns

    @property
    def condition_channels(self) -> int:
        """Channels of the first-frame condition."""
        return MASK_CHANNELS + self.latent_channels if self.first_frame_condition else 0

    @property
    def in_channels(self) -> int:
        return self.latent_channels + self.condition_channels

    @property
    def window_frames(self) -> int:
        """Latent frames that are seen at a time: the anchor, and the window's blocks."""
        return 1 + self.window_blocks * self.block_frames

    def frames(self, blocks: int) -> int:
        """Latent frames of a clip of so many blocks."""
        return 1 + blocks * self.block_frames

    def blocks(self, frames: int) -> int:
        """Blocks of a clip of so many latent frames.

        Raises:
            ContractError: they are not an anchor and whole blocks.
        """
        if frames < 1 or (frames - 1) % self.block_frames:
            expected = f"1 + {self.block_frames}n latent frames"
            raise ContractError("clip.frames", f"expected {expected} (an anchor and n blocks), got {frames}")
        return (frames - 1) // self.block_frames

    @classmethod
    def tiny(cls, **changes: object) -> "DreamZeroConfig":
        """Runs in milliseconds; for tests."""
        base = cls(
            dim=48,
            ffn=64,
            heads=4,
            layers=2,
            freq_dim=16,
            text_dim=16,
            text_tokens=6,
            image_dim=10,
            image_tokens=5,
            latent_channels=4,
            latent_height=4,
            latent_width=4,
            first_frame_condition=True,
            block_actions=3,
            window_blocks=3,
            action_dim=4,
            state_dim=3,
            action_hidden=16,
        )
        return replace(base, **changes)  # type: ignore[arg-type]

    @classmethod
    def wan21_14b(cls, **changes: object) -> "DreamZeroConfig":
        """The released network, on Wan2.1-I2V-14B-480P: 16.5 B parameters, frames of 352 x 640 pixels."""
        base = cls(
            dim=5120,
            ffn=13824,
            heads=40,
            layers=40,
            freq_dim=256,
            text_dim=4096,
            text_tokens=512,
            image_tokens=CLIP_TOKENS,
            latent_channels=16,
            latent_height=44,
            latent_width=80,
            first_frame_condition=True,
            block_actions=24,
            action_dim=32,
            state_dim=64,
            action_hidden=1024,
            state_sees_all=True,
        )
        return replace(base, **changes)  # type: ignore[arg-type]

    @classmethod
    def wan22_5b(cls, **changes: object) -> "DreamZeroConfig":
        """The smaller one, on Wan2.2-TI2V-5B: 5.6 B parameters, frames of 160 x 320 pixels.

        The anchor enters through the image tower alone, not through channels.
        """
        base = cls.wan21_14b(
            dim=3072,
            ffn=14336,
            heads=24,
            layers=30,
            latent_channels=48,
            latent_height=10,
            latent_width=20,
            first_frame_condition=False,
        )
        return replace(base, **changes)  # type: ignore[arg-type]
