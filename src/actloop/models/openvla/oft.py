"""The heads of OpenVLA-OFT (2502.19645): a whole chunk in one forward pass instead of a token at a time.

    [begin | patches | proprioception | prompt | 7K zeros | end] --bidirectional--> hidden --L1 head--> K actions

What an action is predicted from lies one position to its left, as in next-token prediction: the hidden state of the
last prompt token predicts the first number. Names and shapes of parameters are those of the released side files.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from actloop.errors import CheckpointError
from actloop.models.tensors import fill, read_tensors

ACTION_HEAD, PROPRIO_PROJECTOR = "action_head", "proprio_projector"
UNREAD = {
    "vision_backbone": "language that modulates vision (FiLM)",
    "noisy_action_projector": "a diffusion head",
}
BLOCKS = 2


class Residual(nn.Module):
    """x + ReLU(Linear(LayerNorm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Float[Tensor, "batch steps width"]) -> Float[Tensor, "batch steps width"]:
        output: Tensor = x + self.ffn(x)
        return output


class ResidualMLP(nn.Module):
    """From all hidden states of one step to its action."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(Residual(width) for _ in range(BLOCKS))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, outputs)

    def forward(self, x: Float[Tensor, "batch steps inputs"]) -> Float[Tensor, "batch steps outputs"]:
        x = functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        output: Tensor = self.fc2(self.layer_norm2(x))
        return output


class ActionHead(nn.Module):
    """Continuous actions, normalised, from the hidden states of their `action_dim` positions (L1 regression)."""

    def __init__(self, hidden: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = ResidualMLP(hidden * action_dim, hidden, action_dim)

    def forward(self, hidden: Float[Tensor, "batch slots hidden"]) -> Float[Tensor, "batch horizon action"]:
        """`slots`: action_dim positions for each of the chunk's steps, in order."""
        batch, slots, width = hidden.shape
        output: Tensor = self.model(hidden.reshape(batch, slots // self.action_dim, self.action_dim * width))
        return output


class ProprioProjector(nn.Module):
    """The normalised state as one more token."""

    def __init__(self, hidden: int, proprio_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, state: Float[Tensor, "batch state"]) -> Float[Tensor, "batch 1 hidden"]:
        output: Tensor = self.fc2(functional.gelu(self.fc1(state)))
        return output.unsqueeze(1)


def find_side_file(folder: str | Path, name: str) -> Path | None:
    """The released side file of that name (`action_head--150000_checkpoint.pt`), or None.

    Raises:
        CheckpointError: there are several, or a file says that the policy needs what is not here.
    """
    folder = Path(folder)
    for kind, what in UNREAD.items():
        if sorted(folder.glob(f"{kind}--*.pt")):
            raise CheckpointError(f"{folder}: has {kind}--*.pt, so it was trained with {what}, which is not supported")
    found = sorted(folder.glob(f"{name}--*.pt"))
    if len(found) > 1:
        raise CheckpointError(f"{folder}: several {name} files, {', '.join(f.name for f in found)}; keep one")
    return found[0] if found else None


def load_side_file(module: nn.Module, path: str | Path) -> None:
    """Fill a head from its released file; the prefix that data-parallel training left is taken off.

    Raises:
        CheckpointError: unreadable, or not the tensors of this head: each is named.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(path).items()}
    fill(module, tensors, path, dtype=torch.float32)
