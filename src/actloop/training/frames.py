"""Samples out of recorded frames: decoded when a batch needs them, encoded by a frozen video codec.

LeRobotDataset --the frames of a window--> cameras --Mosaic--> one picture --codec, on the device--> latents
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from actloop.actions.normalizers import Normalizer
from actloop.contracts import Embodiment
from actloop.data.cache import CachedEpisodes
from actloop.data.dataset import LeRobotDataset
from actloop.data.windows import Places
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import PolicyInfo
from actloop.models.views import Mosaic
from actloop.models.wan import PromptCache, WanCodec
from actloop.training.config import TrainConfig
from actloop.training.samples import Samples


class FrameSamples(Samples):
    """A dataset whose latents do not fit into memory. Only the frames and cameras that the network sees are read.

    Which feature is which camera, the state and the action is declared by the dataset's own field map. Normalisers
    are fitted over the dataset's frames, unless given: fine-tuning a released policy on its own robot keeps those it
    was released with.
    """

    def __init__(
        self,
        data: LeRobotDataset | CachedEpisodes,
        config: TrainConfig,
        *,
        codec: WanCodec,
        prompts: PromptCache,
        mosaic: Mosaic,
        recorded: Mosaic | None = None,
        embodiment: Embodiment | None = None,
        state: Normalizer | None = None,
        action: Normalizer | None = None,
        gripper: str = "as-recorded",
    ) -> None:
        """`mosaic` makes one picture of what the body's cameras deliver; `recorded` does so for the dataset's frames,
        where they differ (upright already, say), and must give a picture of the same size. `embodiment`: the body,
        where the dataset does not say (recordings of others do not). `gripper`: the convention of the data, which the
        trained policy turns into that of the body.

        Raises:
            DataError: no episodes, or neither the dataset nor `embodiment` says which body it is.
            UnknownNameError: a camera of the mosaic that the dataset's fields do not declare, or an instruction
                without a cached prompt.
            ContractError: sizes of data, codec, prompts and network that do not fit each other.
        """
        body, source = embodiment or data.embodiment, f"{data.path}"
        if body is None:
            raise DataError(f"{source}: declares no embodiment, and none was given: which robot is it?")
        self.recorded = recorded or mosaic
        sizes = [(tiled.height, tiled.width) for tiled in (self.recorded, mosaic)]
        if sizes[0] != sizes[1]:
            raise ContractError("recorded", f"makes a picture of {sizes[0]}, the body's mosaic one of {sizes[1]}")
        for camera in self.recorded.cameras:
            if camera not in data.cameras:
                raise UnknownNameError(f"{source}: camera of the mosaic", camera, data.cameras)
        if config.model.vocabulary or prompts.width != config.model.text_dim:
            raise ContractError(
                "prompts",
                f"hold contexts of width {prompts.width}; the network has a vocabulary of {config.model.vocabulary} "
                f"words (expected 0) and text_dim {config.model.text_dim}",
            )
        self.codec, self.prompts, self.mosaic, self.gripper = codec, prompts, mosaic, gripper
        identity = data.source if isinstance(data, CachedEpisodes) else data.identity
        super().__init__(
            data,
            config,
            source=identity,
            embodiment=body,
            temporal_stride=codec.temporal_stride,
            state=state,
            action=action,
        )
        texts = sorted({episode.instruction for episode in data.episodes})
        self._contexts = {text: prompts.encode(text) for text in texts}
        self._shape = self._latents(self.train.places([0])).shape[2:]

    def model_config(self) -> FastWAMConfig:
        channels, rows, columns = self._shape
        return replace(
            self.config.model,
            latent_channels=channels,
            latent_height=rows,
            latent_width=columns,
            action_dim=self.embodiment.action.size,
            state_dim=self.embodiment.state.size,
            text_tokens=self.prompts.max_tokens,
        )

    def place(self, device: torch.device) -> None:
        self.codec = self.codec.to(device)

    def prepare(self, model: FastWAM) -> None:
        if model.config.stem_channels:
            raise ContractError("stem_channels", "the stem belongs to the light codec; expected 0")

    def policy(self, model: FastWAM, info: PolicyInfo) -> FastWAMPolicy:
        return FastWAMPolicy(
            model=model,
            codec=self.codec,
            text=self.prompts,
            embodiment=self.embodiment,
            state=self.state,
            action=self.action,
            info=info,
            mosaic=self.mosaic,
            gripper=self.gripper,
        )

    def _latents(self, at: Places) -> Float[Tensor, "batch time channels rows columns"]:
        images = {camera: self.data.images(camera, at.frames) for camera in self.recorded.cameras}
        return self.codec.encode(torch.from_numpy(self.recorded.compose(images)))

    def _text(self, instruction: str) -> Float[Tensor, "tokens text"]:
        return self._contexts[instruction]
