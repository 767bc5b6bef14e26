"""A small network that looks at a moment and gives one number: what the verifier and the value share.

    pictures  b cameras (views 3) rows columns --convolutions--> keypoints, patches, strongest responses --+
    numbers   b n  --+--> condition (FiLM on the convolutions: what to look for, and where it should be) --+--> logit
    words     b m  --+

Several views of one camera (now, then, expected) are stacked, so that the first layer sees what moved. Keypoints are a
spatial soft-argmax (Levine et al. 2016), FiLM is Perez et al. 2018. One safetensors file rebuilds it:

    tensors   the network's         metadata  "actloop": JSON of format, config, embodiment, words, normalisers, facts
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from actloop.actions import normalizers
from actloop.actions.normalizers import Normalizer
from actloop.contracts import Embodiment, Frame, embodiment_from_dict, embodiment_to_dict
from actloop.errors import ActloopError, CheckpointError, ContractError
from actloop.models.checkpoint import difference
from actloop.models.tensors import fill, write_tensors
from actloop.models.text import Vocabulary

SHARPNESS = 4.0
WORD = 12
CELL = 4  # pixels per side of a patch
PATCH = 10  # numbers that a patch is summed up in


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """Sizes. Pictures are brought to `pixels` a side; `views` of them per camera, `numbers` beside them."""

    cameras: int
    views: int
    numbers: int
    words: int
    tokens: int
    pixels: int = 32
    channels: int = 16
    keypoints: int = 12
    hidden: int = 96

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1 or self.pixels % CELL or self.channels % 4:
            raise ContractError("judge", f"expected sizes of 1 or more, pixels by {CELL}, channels by 4; got {self}")


class Judge(nn.Module):
    """The network. `blank` stands for a view that there is none of, `place` tells where in the picture a cell is."""

    unit: Tensor

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        wide, twice, hidden = config.channels, 2 * config.channels, config.hidden
        cells = config.pixels // 2
        self.blank = nn.Parameter(torch.zeros(config.cameras, config.views, wide))
        self.place = nn.Parameter(0.1 * torch.randn(config.cameras, wide, cells, cells))
        self.register_buffer("unit", torch.tensor(1 / 127.5), persistent=False)
        self.words = nn.Embedding(config.words, WORD, padding_idx=0)
        self.condition = nn.Sequential(
            nn.Linear(config.numbers + config.tokens * WORD, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden)
        )
        sizes = (wide, twice, twice)
        self.look = nn.Conv2d(3 * config.views, wide, 4, stride=2, padding=1, bias=False)
        with torch.no_grad():  # half of the first filters begin as differences between now and then
            for view in range(1, config.views):
                where = slice(3 * view, 3 * view + 3)
                self.look.weight[(view - 1) :: 4, where] = -self.look.weight[(view - 1) :: 4, :3]
        self.again = nn.Conv2d(wide, twice, 3, padding=1)
        self.closer = nn.Conv2d(twice, twice, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, size) for size in sizes)
        self.films = nn.ModuleList(nn.Linear(hidden, config.cameras * 2 * size) for size in sizes)
        for film in self.films:
            assert isinstance(film, nn.Linear)
            nn.init.normal_(film.weight, std=0.02)
        self.maps = nn.Conv2d(twice, config.keypoints, 1)
        self.patches = nn.Conv2d(twice, PATCH, 3, stride=2, padding=1)
        patches = PATCH * (config.pixels // CELL) ** 2
        self.gather = nn.Linear(config.cameras * patches, hidden)
        seen = config.cameras * (2 * config.keypoints + twice)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden + seen, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, 1)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice as fast on a CPU

    def forward(
        self,
        pictures: UInt8[Tensor, "batch cameras views rows columns 3"],
        numbers: Float[Tensor, "batch numbers"],
        words: Int[Tensor, "batch tokens"],
        absent: Float[Tensor, "batch views"],
    ) -> Float[Tensor, "batch"]:
        """The logit; where `absent` is 1 the view, which must be black, counts as not given."""
        x = rearrange(pictures, "b n v h w c -> (b n) h w (v c)").float().permute(0, 3, 1, 2)  # channels last in memory
        placed = self.place + torch.einsum("bv,nvc->bnc", absent, self.blank)[..., None, None]
        condition = functional.gelu(self.condition(torch.cat([numbers, self.words(words).flatten(1)], dim=1)))
        x = torch.addcmul(placed.flatten(0, 1), self.look(x), self.unit)
        x = self._modulated(0, x, condition)
        x = self._modulated(1, self.again(x), condition)
        x = self._modulated(2, self.closer(x), condition)
        strongest = x.amax((2, 3))
        maps = self.maps(x)
        share = (SHARPNESS * maps).flatten(2).softmax(-1)
        points = torch.einsum("bkp,bxp->bkx", share, _grid(maps).flatten(2)).flatten(1)
        per_camera = torch.cat([points, strongest], dim=1)
        patches = rearrange(functional.relu(self.patches(x)), "(b n) c h w -> b (n c h w)", n=self.config.cameras)
        seen = rearrange(per_camera, "(b n) f -> b (n f)", n=self.config.cameras)
        gathered = functional.gelu(self.gather(functional.dropout(patches, 0.3, self.training)))
        logit: Tensor = self.head(torch.cat([condition, gathered, seen], dim=1))
        return logit[:, 0]

    def _modulated(self, layer: int, x: Tensor, condition: Float[Tensor, "batch hidden"]) -> Tensor:
        film = rearrange(self.films[layer](condition), "b (n two c) -> two (b n) c 1 1", two=2, n=self.config.cameras)
        return functional.relu(torch.addcmul(film[1], self.norms[layer](x), 1 + film[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """A trained network with everything that carries a moment of one robot into it."""

    network: Judge
    embodiment: Embodiment
    vocabulary: Vocabulary
    normalizers: Mapping[str, Normalizer]
    facts: Mapping[str, object]

    @property
    def identity(self) -> str:
        """Sixteen hex digits over every weight, size, word and normaliser, and the body."""
        sha = hashlib.sha256(json.dumps(self.header(), sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    def header(self) -> dict[str, object]:
        return {
            "config": asdict(self.network.config),
            "embodiment": embodiment_to_dict(self.embodiment),
            "words": list(self.vocabulary.words),
            "normalizers": {name: found.to_dict() for name, found in self.normalizers.items()},
        }

    def check(self, embodiment: Embodiment, instruction: str, who: str) -> None:
        """Refuse what it was not trained for.

        Raises:
            ContractError: another robot, or an instruction with unknown words.
        """
        if embodiment.identity != self.embodiment.identity:
            raise ContractError(who, f"{difference(self.embodiment, embodiment)}; train one on this robot's episodes")
        self.vocabulary.encode(instruction)

    def pictures(
        self, views: Sequence[Mapping[str, Frame] | None]
    ) -> tuple[UInt8[np.ndarray, "cameras views rows columns 3"], Float[np.ndarray, "views"]]:
        """The views of every camera at the network's size, and which of them are absent (None)."""
        size, cameras = self.network.config.pixels, self.embodiment.cameras
        out = np.zeros((len(cameras), len(views), size, size, 3), np.uint8)
        given = [index for index, view in enumerate(views) if view is not None]
        for place, camera in enumerate(cameras):
            shown = [view[camera.name] for view in views if view is not None]
            out[place, given] = resized(np.stack(shown), size) if shown else 0
        return out, np.array([view is None for view in views], np.float32)

    @torch.inference_mode()
    def probability(
        self,
        pictures: UInt8[np.ndarray, "batch cameras views rows columns 3"],
        numbers: Float[np.ndarray, "batch numbers"],
        instruction: str,
        absent: Float[np.ndarray, "batch views"],
    ) -> Float[np.ndarray, "batch"]:
        """The network's answer in 0..1."""
        words = self.vocabulary.encode(instruction).expand(len(pictures), -1)
        logit = self.network(torch.from_numpy(pictures), torch.from_numpy(numbers), words, torch.from_numpy(absent))
        found: np.ndarray = torch.sigmoid(logit).numpy()
        return found


def resized(frames: UInt8[np.ndarray, "*frames height width 3"], size: int) -> UInt8[np.ndarray, "*frames size size 3"]:
    """Brought to `size` a side by averaging areas; themselves where they have that size."""
    *many, height, width, _ = frames.shape
    if (height, width) == (size, size) or 0 in many:
        return frames.reshape(*many, size, size, 3)
    planes = torch.from_numpy(np.ascontiguousarray(frames)).reshape(-1, height, width, 3).permute(0, 3, 1, 2).float()
    small = functional.interpolate(planes, size=(size, size), mode="area")
    out: np.ndarray = small.round().byte().permute(0, 2, 3, 1).reshape(*many, size, size, 3).numpy()
    return out


def save_judging(judging: Judging, path: str | Path, form: str) -> None:
    """Write everything to one file of format `form`; it appears whole or not at all."""
    header = {"format": form, **judging.header(), "facts": dict(judging.facts)}
    write_tensors(path, judging.network.state_dict(), {"actloop": json.dumps(header, sort_keys=True)})


def load_judging(path: str | Path, form: str, *, embodiment: Embodiment | None = None) -> Judging:
    """What `save_judging` wrote; with `embodiment`, only for exactly that body.

    Raises:
        CheckpointError: no such file, another format, damaged, or for another robot.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("actloop", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; train one, or name a shipped one") from error
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("format") != form:
        raise CheckpointError(f"{path}: expected format {form!r}, got {header.get('format')!r}")
    try:
        network = Judge(JudgeConfig(**header["config"])).eval()
        judging = Judging(
            network=network,
            embodiment=embodiment_from_dict(header["embodiment"]),
            vocabulary=Vocabulary(header["words"], max_tokens=network.config.tokens),
            normalizers={name: normalizers.from_dict(plain) for name, plain in header["normalizers"].items()},
            facts=header["facts"],
        )
        fill(network, tensors, path)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ActloopError) as error:
        raise CheckpointError(f"{path}: damaged header ({type(error).__name__}: {error})") from error
    if embodiment is not None and embodiment.identity != judging.embodiment.identity:
        raise CheckpointError(f"{path}: {difference(judging.embodiment, embodiment)}")
    return judging


def _grid(like: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 2 height width"]:
    """Row and column of every cell, -1 to 1."""
    rows = torch.linspace(-1, 1, like.shape[2], device=like.device)
    columns = torch.linspace(-1, 1, like.shape[3], device=like.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(like), -1, -1, -1)
