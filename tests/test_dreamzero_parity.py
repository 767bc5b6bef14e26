"""Parity with the released DreamZero's numbers, and that what is off is noticed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from actloop.errors import CheckpointError, DataError
from actloop.testing.dreamzero_parity import dreamzero_parity

FIXTURE = Path(__file__).parents[2] / "shared" / "fixtures" / "dreamzero"
NEEDED = ("meta.json", "dit_state.safetensors", "fixtures.safetensors")

pytestmark = pytest.mark.skipif(not FIXTURE.is_dir(), reason="the released numbers are not beside this checkout")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the comparison of the network needs, writable."""
    folder = tmp_path / "dreamzero"
    folder.mkdir()
    for name in NEEDED:
        shutil.copy(FIXTURE / name, folder / name)
        (folder / name).chmod(0o644)
    return folder


def change(path: Path, name: str, by: Callable[[Tensor], Tensor]) -> None:
    held = load_file(path)
    held[name] = by(held[name]).contiguous()
    save_file(held, path)


def keep(folder: Path, *groups: str) -> None:
    held = load_file(folder / "fixtures.safetensors")
    wanted = {name: tensor for name, tensor in held.items() if name.partition("/")[0] in groups}
    save_file(wanted, folder / "fixtures.safetensors")


def test_every_released_number_is_reproduced() -> None:
    found = {quantity.name: quantity for quantity in dreamzero_parity(FIXTURE)}
    assert not [quantity for quantity in found.values() if not quantity.passed]
    for group in ("train", "train_dec", "train_b2", "notf", "inf chunk0", "inf chunk1", "inf_win start7", "lazy 0"):
        for part in ("video", "action"):
            assert found[f"{group} {part}"].difference < 1e-5
    losses = {name for name in found if name.startswith("head_loss")}
    assert losses == {
        f"head_loss {name}"
        for name in ("loss", "dynamics_loss", "action_loss", "grad_action_decoder_l2W", "grad_block0_q")
    }
    assert {"full-size layout", "inf kv_final_l2", "sched unipc_timesteps", "head latents", "head context"} <= set(
        found
    )
    assert found["full-size layout"].note == "names and shapes of 2146 released tensors"


@pytest.mark.parametrize(
    ("weight", "unmoved"),
    [("blocks.1.self_attn.norm_k.weight", "train layer 0"), ("action_decoder.layer1.b", "train video")],
)
def test_a_changed_weight_is_noticed(copy: Path, weight: str, unmoved: str) -> None:
    keep(copy, "train", "inf")
    change(copy / "dit_state.safetensors", weight, lambda t: t * 1.01)
    found = {quantity.name: quantity.passed for quantity in dreamzero_parity(copy)}
    assert found[unmoved]
    assert not found["train action"]
    assert not found["inf chunk1 action"]


@pytest.mark.parametrize(
    "by", [lambda t: t + 1e-3, lambda t: t[:, :-1], lambda t: t * float("nan")], ids=["value", "shape", "nan"]
)
def test_wrong_numbers_are_noticed(copy: Path, by: Callable[[Tensor], Tensor]) -> None:
    keep(copy, "train", "sched")
    change(copy / "fixtures.safetensors", "train/action_pred", by)
    assert [quantity.name for quantity in dreamzero_parity(copy) if not quantity.passed] == ["train action"]


def test_a_wrong_loss_is_noticed(copy: Path) -> None:
    keep(copy, "head", "head_loss", "train")
    change(copy / "fixtures.safetensors", "head_loss/action_loss", lambda t: t * 1.01)
    assert [quantity.name for quantity in dreamzero_parity(copy) if not quantity.passed] == ["head_loss action_loss"]


def test_what_is_not_there_is_not_compared(copy: Path) -> None:
    keep(copy, "train_b2")
    assert {quantity.name for quantity in dreamzero_parity(copy)} == {"train_b2 video", "train_b2 action"}
    held = load_file(copy / "fixtures.safetensors")
    save_file({name: t for name, t in held.items() if name == "train_b2/x"}, copy / "fixtures.safetensors")
    with pytest.raises(DataError, match="do not fit together"):
        list(dreamzero_parity(copy))


def test_bad_folders_say_what_is_wrong(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta\.json"):
        list(dreamzero_parity(tmp_path / "nowhere"))
    meta = json.loads((copy / "meta.json").read_text())
    for key, value, error, message in (
        ("num_layers", 2, CheckpointError, r"unexpected blocks\.2"),
        ("dim", None, DataError, "lacks 'dim'"),
        ("num_state_per_block", 2, DataError, "one state per block"),
    ):
        plain = meta["dit_cfg"] | {key: value}
        plain = {name: given for name, given in plain.items() if given is not None}
        (copy / "meta.json").write_text(json.dumps(meta | {"dit_cfg": plain}))
        with pytest.raises(error, match=message):
            list(dreamzero_parity(copy))
    torch.save({}, copy / "fixtures.safetensors")
    with pytest.raises(DataError, match="fixtures"):
        list(dreamzero_parity(copy))
