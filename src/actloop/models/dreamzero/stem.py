"""What a DreamZero too small to learn from patches alone sees with: convolutions on every clean frame.

    frame's latents, words --films, group norms--> addition to the frame's tokens
                                `--soft-argmax---> keypoints, state, words --> addition to a block's state and actions

The keypoints are those of the frame at the start of a block, the last one observed: in training the clean one before
it. Released networks have none of this.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.stem import Stem, grid, keypoints


class FrameStem(Stem):
    """The stem of the small models, its two answers apart: a frame is looked at once, a state may come later."""

    tokens = 1
    rates = (2.0, 4.0, 8.0)  # states are within -1 and 1

    def __init__(self, config: DreamZeroConfig) -> None:
        super().__init__(
            latent_channels=config.latent_channels,
            channels=config.stem_channels,
            keypoints=config.keypoints,
            cameras=config.cameras,
            hidden=config.dim,
            text_dim=config.text_dim,
            state_dim=config.state_dim,
        )
        last = self.points[-1]
        assert isinstance(last, nn.Linear)
        self.points[-1] = nn.Linear(last.in_features, config.dim)

    def see(
        self, latents: Float[Tensor, "frames channels height width"], told: Float[Tensor, "frames text"]
    ) -> tuple[Float[Tensor, "frames tokens dim"], Float[Tensor, "frames coordinates"]]:
        """The addition to each frame's tokens, and where its keypoints are."""
        picture = functional.pixel_shuffle(self.picture(latents), self.cells)
        seen = self._modulated(0, self.look(torch.cat([picture, grid(picture)], dim=1)), told)
        seen = self._modulated(1, self.again(seen), told)
        maps = rearrange(self.maps(seen), "b k h (n w) -> b (n k) h w", n=self.cameras)
        where = keypoints(self.sharpness * maps)[0].flatten(1)
        return rearrange(self.patches(seen), "b d h w -> b (h w) d"), where

    def token(
        self,
        where: Float[Tensor, "batch blocks coordinates"],
        state: Float[Tensor, "batch blocks state"],
        told: Float[Tensor, "batch text"],
    ) -> Float[Tensor, "batch blocks dim"]:
        """The addition to the tokens of every block's state and actions."""
        waves = [wave(state * rate) for rate in self.rates for wave in (torch.sin, torch.cos)]
        words = told[:, None].expand(-1, state.shape[1], -1)
        out: Tensor = self.points(torch.cat([2 * where, 2 * state, *waves, words], dim=-1))
        return out
