"""What a training starts with: a fresh network with codec and words of its own, or a copy of a trained policy's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from actloop.data.cache import CachedEpisodes
from actloop.data.dataset import LeRobotDataset
from actloop.errors import ContractError
from actloop.models.codec import PatchCodec
from actloop.models.dreamzero import DreamZero, DreamZeroConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.image import ImageTower
from actloop.models.dreamzero.layers import PerBody
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.models.text import Instructions, Vocabulary
from actloop.models.wan.vae import WanCodec
from actloop.training.dreamzero.pictures import FrameClips, LatentClips, fitted_codec
from actloop.training.dreamzero.recipe import DreamZeroRecipe
from actloop.training.dreamzero.samples import ClipSamples, Recording

# Of a network's sizes: what may differ from that of the policy a training starts from.
FREE = ("memory", "window_blocks", "gates", "vocabulary")

Recorded = CachedEpisodes | LeRobotDataset


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a training starts with: a network, and what it sees and reads through."""

    network: DreamZero
    codec: PatchCodec | WanCodec
    text: Instructions
    tower: ImageTower | None = None

    def clips(self, recording: Recording, recipe: DreamZeroRecipe, *, acts: bool) -> ClipSamples:
        """Of one robot's recordings."""
        settings: dict[str, Any] = {
            "text": self.text,
            "blocks": recipe.clip_blocks,
            "validation_share": recipe.validation_share,
            "at_most": recipe.acting_episodes if acts else 0,
            "acts": acts,
        }
        if isinstance(self.codec, PatchCodec):
            return LatentClips(recording, self.network.config, codec=self.codec, **settings)
        return FrameClips(recording, self.network.config, codec=self.codec, tower=self.tower, **settings)


def known(declaration: RobotDeclaration, data: Recorded, init: DreamZeroPolicy | None) -> RobotDeclaration:
    """The declaration with statistics: its own, those of `init` for the same body, or those of the data."""
    if declaration.statistics is not None:
        return declaration
    if init is not None and init.embodiment.identity == declaration.embodiment.identity:
        same = replace(init.declaration, statistics=None) == replace(declaration, tag=init.declaration.tag)
        if same:
            return declaration.with_statistics(init.declaration.known)
    spans = (slice(one.start, one.start + one.length) for one in data.episodes)
    return declaration.measured(((data.states[at], data.actions[at]) for at in spans), rows=len(data.states))


def identity(data: Recorded) -> str:
    """What tells a dataset from others, and from itself before it grew."""
    return data.source if isinstance(data, CachedEpisodes) else data.identity


def begin(recipe: DreamZeroRecipe, recordings: Sequence[Recording]) -> Parts:
    """A fresh network, its codec and its words, fitted to the recordings."""
    texts = [prompt for recording in recordings for prompt in recording.prompts().values()]
    vocabulary = Vocabulary.of(texts, max_tokens=recipe.sizes.text_tokens)
    codec = fitted_codec(recordings, recipe.sizes.latent_channels)
    config = filled(recipe.sizes, recordings[0].declaration, codec, vocabulary)
    return Parts(network=fresh(config, codec), codec=codec, text=vocabulary)


def filled(
    sizes: DreamZeroConfig, declaration: RobotDeclaration, codec: PatchCodec, vocabulary: Vocabulary
) -> DreamZeroConfig:
    """The sizes with what follows from the robot, its pictures and its words."""
    height, width = declaration.tiling.size
    rows, columns = codec.encode(torch.zeros(1, 1, height, width, 3, dtype=torch.uint8)).shape[-2:]
    cells = declaration.tiling
    return replace(
        sizes,
        latent_height=rows,
        latent_width=columns,
        block_actions=declaration.block_actions,
        block_frames=declaration.block_frames // codec.temporal_stride,
        vocabulary=vocabulary.size,
        cameras=cells.columns if cells.rows == 1 and cells.resized_to is None else 1,
        first_frame_condition=False,
        image_tokens=0,
    )


def fresh(config: DreamZeroConfig, codec: PatchCodec) -> DreamZero:
    """A network that begins to learn at once: states and actions enter it at the scale of its other tokens."""
    network = DreamZero(config)
    for module in network.modules():
        if isinstance(module, PerBody):
            nn.init.normal_(module.W, std=module.W.shape[1] ** -0.5)
    nn.init.normal_(network.action_decoder.layer2.W, std=0.02)
    if config.stem_channels:
        network.stem.unfold_with(*codec.cells(network.stem.cells))
    return network


def go_on(recipe: DreamZeroRecipe, recordings: Sequence[Recording], init: DreamZeroPolicy) -> Parts:
    """A copy of a policy's network; where it has learned words, with fresh rows for those that it did not know.

    Raises:
        ContractError: it has other sizes than recipe and data say.
    """
    had, text, codec = init.model.config, init.text, init.codec
    if not isinstance(codec, PatchCodec | WanCodec):
        raise ContractError("init", f"sees through a {type(codec).__name__}; expected a PatchCodec or a WanCodec")
    config = replace(recipe.sizes, **{name: getattr(had, name) for name in FREE})
    if isinstance(text, Vocabulary) and isinstance(codec, PatchCodec):
        texts = [prompt for recording in recordings for prompt in recording.prompts().values()]
        new = Vocabulary.of(texts, max_tokens=text.max_tokens)
        text = Vocabulary([*text.words, *new.words], max_tokens=text.max_tokens)
        config = filled(config, recordings[0].declaration, codec, text)
    unlike = [
        f"{name}: data and recipe say {getattr(config, name)}, init has {getattr(had, name)}"
        for name in DreamZeroConfig.__dataclass_fields__
        if name not in FREE and getattr(config, name) != getattr(had, name)
    ]
    if unlike:
        raise ContractError("init", f"does not fit: {'; '.join(unlike)}")
    tensors = {key: tensor.detach().clone() for key, tensor in init.model.state_dict().items()}
    if isinstance(text, Vocabulary) and isinstance(init.text, Vocabulary):
        tensors["words_table.weight"] = _reordered(tensors["words_table.weight"], init.text, text)
    with torch.device("meta"):
        network = DreamZero(config)
    # In the dtype it has: of what does not train, a full network in bfloat16 is never held in float32.
    network.load_state_dict(tensors, assign=True)
    return Parts(network=network.requires_grad_(True), codec=codec, text=text, tower=init.tower)


def _reordered(table: Tensor, had: Vocabulary, has: Vocabulary) -> Tensor:
    """Rows of the words known before at their new places; of new ones, as a fresh network has them."""
    rows = torch.randn(has.size, table.shape[1]).to(table)
    rows[0] = table[0]
    places = {word: index + 1 for index, word in enumerate(has.words)}
    for index, word in enumerate(had.words):
        rows[places[word]] = table[index + 1]
    return rows
