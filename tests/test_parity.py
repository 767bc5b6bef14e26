"""Parity with the released numbers, and that the command notices when something is off."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actloop.cli import main
from actloop.errors import CheckpointError, DataError
from actloop.testing.fastwam_parity import fastwam_parity

SHARED = Path(__file__).parents[2] / "shared" / "fixtures" / "fastwam"  # whole: the video codec too
FIXTURE = SHARED if SHARED.is_dir() else Path(__file__).parent / "fixtures" / "fastwam"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "fastwam"))


def test_every_released_number_is_reproduced() -> None:
    found = {quantity.name: quantity for quantity in fastwam_parity(FIXTURE)}
    assert not [quantity for quantity in found.values() if not quantity.passed]
    for name in ("fastwam", "joint", "idm"):
        for part in ("action", "pred_video", "pred_action", "loss", "grad_norm", "action, bf16"):
            assert f"{name} {part}" in found
        assert found[f"{name} video when the actions move"].difference == 0
    assert found["fastwam actions when the future moves"].difference == 0
    assert found["fastwam action, bf16"].difference < 0.2 * found["fastwam action, bf16"].tolerance
    assert {"fastwam action, shift 1", "no-cotrain gradients", "full-size layout"} <= set(found)
    assert ("vae latents" in found) == SHARED.is_dir()


def test_a_changed_weight_is_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payload = torch.load(copy / "tiny_ckpt.pt", weights_only=True)
    payload["mot"]["mixtures.action.blocks.1.self_attn.norm_q.weight"][3] *= 1.01
    torch.save(payload, copy / "tiny_ckpt.pt")
    assert main(["parity", "fastwam", str(copy)]) == 1
    assert "PAST TOLERANCE" in capsys.readouterr().out


def test_the_wrong_shift_is_noticed(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["inference"]["shift"] = 1.0
    (copy / "config.json").write_text(json.dumps(config))
    failed = {quantity.name for quantity in fastwam_parity(copy) if not quantity.passed}
    assert {"fastwam action", "joint action", "idm action"} <= failed
    assert "fastwam loss" not in failed, "training has a shift of its own"


def test_a_folder_without_optional_files_is_compared_on_the_rest(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("report.json", "index.json", "tiny_vae.pt", "idm.safetensors", "joint_bf16.safetensors"):
        (copy / name).unlink(missing_ok=True)
    assert main(["parity", "fastwam", str(copy), "--json"]) == 0
    names = [quantity["name"] for quantity in json.loads(capsys.readouterr().out)["quantities"]]
    assert "fastwam action" in names
    assert not [name for name in names if name.startswith("idm") or "loss" in name or name == "joint action, bf16"]


def test_losses_are_compared_as_they_are_weighted(copy: Path) -> None:
    config, report = (json.loads((copy / name).read_text()) for name in ("config.json", "report.json"))
    index = json.loads((copy / "index.json").read_text())
    config["training"]["lambda_video"] = 0.5
    for name in ("fastwam", "joint", "idm"):
        parts = report[name]["train_parts"]
        parts["loss_video"] *= 0.5
        report[name]["train_loss"] = parts["loss_video"] + parts["loss_action"]
        index[name]["scalars"]["loss"] = report[name]["train_loss"]
        del report[name]["grad_norm"], report[name]["grad_norm_video"]
    for name, plain in (("config", config), ("report", report), ("index", index)):
        (copy / f"{name}.json").write_text(json.dumps(plain))
    assert not [quantity for quantity in fastwam_parity(copy) if not quantity.passed]


@pytest.mark.parametrize("change", [lambda t: t + 1, lambda t: t[:4].clone(), lambda t: t * float("nan")])
def test_wrong_numbers_in_bf16_are_noticed(copy: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    held = load_file(copy / "idm_bf16.safetensors")
    save_file({"action": change(held["action"])}, copy / "idm_bf16.safetensors")
    assert [q.name for q in fastwam_parity(copy) if not q.passed] == ["idm action, bf16"]


def test_nothing_to_compare_is_an_error(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name not in ("config.json", "batch.safetensors", "latents_batch.safetensors"):
            path.unlink()
    with pytest.raises(DataError, match="nothing to compare"):
        list(fastwam_parity(copy))


@pytest.mark.parametrize(
    ("file", "keys"), [("config.json", ("training",)), ("config.json", ("inference", "num_inference_steps"))]
)
def test_a_missing_key_is_one_error(copy: Path, file: str, keys: tuple[str, ...]) -> None:
    plain = json.loads((copy / file).read_text())
    at = plain
    for key in keys[:-1]:
        at = at[key]
    del at[keys[-1]]
    (copy / file).write_text(json.dumps(plain))
    with pytest.raises(DataError, match=keys[-1]):
        list(fastwam_parity(copy))


def test_bad_folders_say_what_is_wrong(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        list(fastwam_parity(tmp_path / "nowhere"))
    assert main(["parity", "openwam", str(copy)]) == 2
    assert "unknown name" in (said := capsys.readouterr().err)
    assert "did you mean" in said
    batch = load_file(copy / "latents_batch.safetensors")
    save_file({name: tensor[:, :32].contiguous() for name, tensor in batch.items()}, copy / "latents_batch.safetensors")
    with pytest.raises(CheckpointError, match="patch_embedding"):
        list(fastwam_parity(copy))
    (copy / "config.json").write_text('{"video": {}}')
    with pytest.raises(DataError, match="lacks"):
        list(fastwam_parity(copy))
    (copy / "batch.safetensors").unlink()
    (copy / "config.json").write_text((FIXTURE / "config.json").read_text())
    with pytest.raises(DataError, match="batch"):
        list(fastwam_parity(copy))
