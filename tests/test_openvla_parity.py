"""Parity with the released numbers, with numbers of another implementation at other sizes, and that slips are noticed.

The other implementation is transformers': its DINOv2 with registers, its SigLIP, its Llama and their own decoding.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from actloop.errors import CheckpointError, ContractError, DataError, UnknownNameError
from actloop.models.prismatic import LanguageConfig, PrismaticConfig, PrismaticVLM, TowerConfig, save_prismatic
from actloop.testing.fastwam_parity import Quantity
from actloop.testing.openvla_bench import SIZES, bench_openvla, config_of, memory_of
from actloop.testing.openvla_parity import EVERY, openvla_parity

SHARED = Path(__file__).parents[2] / "shared" / "fixtures" / "openvla"
released = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/fixtures/openvla is not here")

SMALL = PrismaticConfig(
    towers=(
        TowerConfig(kind="dino", image_size=28, patch=14, dim=16, depth=4, heads=4, hidden=64, registers=4),
        TowerConfig(kind="siglip", image_size=28, patch=14, dim=24, depth=3, heads=4, hidden=50),
    ),
    language=LanguageConfig(
        vocabulary=576, hidden=32, intermediate=48, layers=2, heads=4, kv_heads=4, head_dim=8, eps=1e-6
    ),
)
# As a folder that we do not have: 224 px, grouped-query attention, other depths, another base of the rotary positions.
OTHER = PrismaticConfig(
    towers=(
        TowerConfig(kind="dino", image_size=224, patch=14, dim=24, depth=3, heads=4, hidden=96, registers=4),
        TowerConfig(kind="siglip", image_size=224, patch=14, dim=16, depth=5, heads=4, hidden=40),
    ),
    language=LanguageConfig(
        vocabulary=1024,
        hidden=48,
        intermediate=80,
        layers=3,
        heads=6,
        kv_heads=2,
        head_dim=8,
        eps=1e-5,
        rope_theta=5e4,
    ),
)


# --- the other implementation -----------------------------------------------------------------------------------------


def their_vision(model: PrismaticVLM, pixels: Tensor) -> Tensor:
    """The block before the last, of transformers' own ViTs with our weights."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

    backbone = model.vision_backbone
    dino, siglip = model.config.towers
    sizes = {"image_size": dino.image_size, "patch_size": dino.patch, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
    first = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=dino.dim,
            num_hidden_layers=dino.depth,
            num_attention_heads=dino.heads,
            mlp_ratio=dino.hidden // dino.dim,
            num_register_tokens=dino.registers,
            **sizes,
        )
    ).eval()
    second = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=siglip.dim,
            num_hidden_layers=siglip.depth,
            num_attention_heads=siglip.heads,
            intermediate_size=siglip.hidden,
            **sizes,
        )
    ).eval()
    _give(first, _dino_names(backbone.featurizer.state_dict(), dino.depth))
    _give(second, _siglip_names(backbone.fused_featurizer.state_dict(), siglip.depth))
    features = first(pixels[:, :3], output_hidden_states=True).hidden_states[-2][:, 1 + dino.registers :]
    others = second(pixels[:, 3:], output_hidden_states=True).hidden_states[-2]
    return torch.cat((features, others), dim=-1)


def _give(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Every tensor has its place; what has none of its own (mask token, pooling) is not computed."""
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all("mask_token" in name or "head" in name for name in missing), missing


def _block_names(ours: dict[str, Tensor], at: int, names: dict[str, str], before: str) -> dict[str, Tensor]:
    found = {}
    for kind in ("weight", "bias"):
        for name, part in zip(("q", "k", "v"), ours[f"blocks.{at}.attn.qkv.{kind}"].chunk(3), strict=True):
            found[f"{before}{names[name]}.{kind}"] = part
        for name in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
            found[f"{before}{names.get(name, name)}.{kind}"] = ours[f"blocks.{at}.{name}.{kind}"]
    return found


def _dino_names(ours: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Their class token has a position of its own, which timm's has not: it is none."""
    names = {name: f"attention.{name}_proj" for name in ("q", "k", "v")} | {"attn.proj": "attention.o_proj"}
    found = {
        "embeddings.cls_token": ours["cls_token"],
        "embeddings.register_tokens": ours["reg_token"],
        "embeddings.position_embeddings": functional.pad(ours["pos_embed"], (0, 0, 1, 0)),
        "embeddings.patch_embeddings.projection.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": ours["patch_embed.proj.bias"],
        "layernorm.weight": ours["norm.weight"],
        "layernorm.bias": ours["norm.bias"],
    }
    for at in range(depth):
        before = f"encoder.layer.{at}."
        found |= _block_names(ours, at, names, before)
        for one in (1, 2):
            found[f"{before}layer_scale{one}.lambda1"] = ours[f"blocks.{at}.ls{one}.scale_factor"]
    return found


def _siglip_names(ours: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    names = {name: f"self_attn.{name}_proj" for name in ("q", "k", "v")} | {"attn.proj": "self_attn.out_proj"}
    names |= {"norm1": "layer_norm1", "norm2": "layer_norm2"}
    found = {
        "embeddings.position_embedding.weight": ours["pos_embed"][0],
        "embeddings.patch_embedding.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": ours["patch_embed.proj.bias"],
        "post_layernorm.weight": ours["norm.weight"],
        "post_layernorm.bias": ours["norm.bias"],
    }
    for at in range(depth):
        found |= _block_names(ours, at, names, f"encoder.layers.{at}.")
    return found


def their_llama(model: PrismaticVLM) -> Any:
    """A Llama of the library with its own rotary positions, masks and cache."""
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(model.language_model.config).eval()
    theirs.load_state_dict(model.language_model.state_dict())
    return theirs


@torch.no_grad()
def written(folder: Path, config: PrismaticConfig, seed: int = 0) -> Path:
    """A parity folder whose numbers the other implementation gave."""
    torch.manual_seed(seed)
    model = PrismaticVLM(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.0 if "embed_tokens" in name else parameter[0].numel() ** -0.5)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))
    stats = {"q01": [-0.1, -0.2, 0.0], "q99": [0.1, 0.3, 1.0], "mask": [True, True, False]}
    ids_of_text = config.language.vocabulary - config.pad_to_multiple_of
    extra = {"norm_stats": {"toy": {"action": stats}}, "pad_token_id": ids_of_text}
    save_prismatic(model, folder, extra=extra)
    (folder / "preprocessor_config.json").unlink()

    pixels = torch.randn(1, 6, *[config.towers[0].image_size] * 2)
    ids = torch.randint(3, ids_of_text - 256, (1, 12))
    vision, llama = their_vision(model, pixels), their_llama(model)
    patches = model.projector(vision)
    table = llama.model.embed_tokens
    embeds = torch.cat((table(ids[:, :1]), patches, table(ids[:, 1:])), dim=1)
    out = llama(inputs_embeds=embeds, output_hidden_states=True)
    held = {
        "pixel_values": pixels,
        "input_ids": ids,
        "vision": vision,
        "projected": patches,
        "hidden_last": out.hidden_states[-1],
        "logits_last": out.logits[:, -1],
        "logits_full_l16": out.logits[..., ::EVERY],
    }
    everything = set(range(config.language.vocabulary))
    for name, allowed in (("greedy", everything), ("constrained", set(range(ids_of_text - 256, ids_of_text)))):
        said = llama.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2]),
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            suppress_tokens=sorted(everything - allowed) or None,
            pad_token_id=0,
            eos_token_id=None,
        )[0]
        digits = (ids_of_text - said.numpy()).clip(1, 256)
        centres = (np.linspace(-1, 1, 256)[:-1] + np.linspace(-1, 1, 256)[1:]) / 2
        values = centres[np.minimum(digits - 1, 254)]
        low, high, mask = (np.array(stats[key]) for key in ("q01", "q99", "mask"))
        held[name] = said
        held["action" if name == "greedy" else "action_constrained"] = torch.from_numpy(
            np.where(mask, 0.5 * (values + 1) * (high - low) + low, values)
        )
    labels = torch.cat((torch.full_like(ids, -100), held["constrained"][None]), dim=1)
    whole = torch.cat((ids, held["constrained"][None]), dim=1)
    answered = torch.cat((embeds, table(held["constrained"])[None]), dim=1)
    logits = llama(inputs_embeds=answered).logits[0, -4:-1]
    held |= {"train_ids": whole, "train_labels": labels}
    held["train_loss"] = functional.cross_entropy(logits, held["constrained"]).double()
    np.savez(folder / "fixture.npz", **{name: np.asarray(tensor) for name, tensor in held.items()})
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("parity") / "small", SMALL)


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def failed(folder: Path) -> set[str]:
    return {quantity.name for quantity in openvla_parity(folder) if not quantity.passed}


NUMBERS = {
    "vision",
    "projected",
    "hidden_last",
    "logits_last",
    "logits_full_l16",
    "greedy tokens that differ",
    "constrained tokens that differ",
    "action",
    "action_constrained",
    "train_loss",
}


# --- what is reproduced -----------------------------------------------------------------------------------------------


@released
def test_every_released_number_is_reproduced() -> None:
    found = {quantity.name: quantity for quantity in openvla_parity(SHARED)}
    assert not [quantity for quantity in found.values() if not quantity.passed]
    assert set(found) >= NUMBERS | {"pixels of ecot_test_obs.png", "full-size layout"}
    assert found["pixels of ecot_test_obs.png"].difference == 0
    assert found["action"].difference < 1e-9


@pytest.mark.parametrize("config", [SMALL, OTHER], ids=["small", "224 px, grouped queries"])
def test_numbers_of_another_implementation_are_reproduced(config: PrismaticConfig, tmp_path: Path) -> None:
    found = {quantity.name: quantity for quantity in openvla_parity(written(tmp_path / "folder", config, seed=4))}
    assert not [quantity for quantity in found.values() if not quantity.passed]
    assert set(found) >= NUMBERS


def test_a_folder_with_less_is_compared_on_the_rest(copy: Path) -> None:
    with np.load(copy / "fixture.npz") as file:
        kept = {name: file[name] for name in ("pixel_values", "input_ids", "vision", "greedy")}
    np.savez(copy / "fixture.npz", **kept)
    found = {quantity.name for quantity in openvla_parity(copy)}
    assert found & NUMBERS == {"vision", "greedy tokens that differ"}


# --- what is noticed --------------------------------------------------------------------------------------------------


def change_weight(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] += 0.05
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("vision_backbone.fused_featurizer.blocks.1.mlp.fc2.bias", "vision"),
        ("projector.fc2.bias", "projected"),
        ("language_model.model.layers.1.self_attn.k_proj.weight", "hidden_last"),
    ],
)
def test_a_changed_weight_is_noticed(copy: Path, name: str, first: str) -> None:
    change_weight(copy, name)
    found = [quantity.name for quantity in openvla_parity(copy) if not quantity.passed]
    assert found[0] == first


def test_a_weight_of_the_last_block_changes_nothing(copy: Path) -> None:
    change_weight(copy, "vision_backbone.featurizer.blocks.3.mlp.fc2.bias")
    change_weight(copy, "vision_backbone.fused_featurizer.attn_pool.latent")
    assert not failed(copy)


def test_other_statistics_and_another_eps_are_noticed(copy: Path) -> None:
    plain = json.loads((copy / "config.json").read_text())
    plain["norm_stats"]["toy"]["action"]["q99"][0] += 0.01
    (copy / "config.json").write_text(json.dumps(plain))
    assert failed(copy) == {"action", "action_constrained"}
    plain["text_config"]["rms_norm_eps"] = 1e-2
    (copy / "config.json").write_text(json.dumps(plain))
    assert "hidden_last" in failed(copy)


@released
def test_a_shifted_photo_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "fixtures" / "openvla"
    shutil.copytree(SHARED, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    (tmp_path / "data").mkdir()
    shutil.copyfile(SHARED.parents[1] / "data" / "ecot_test_obs.png", tmp_path / "data" / "ecot_test_obs.png")
    plain = json.loads((folder / "preprocessor_config.json").read_text())
    plain["tvf_normalize_params"][0]["mean"] = plain["means"][0]  # as if the rounding had been overlooked
    (folder / "preprocessor_config.json").write_text(json.dumps(plain))
    assert failed(folder) == {"pixels of ecot_test_obs.png"}


def test_folders_that_are_no_parity_folders(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; expected a folder of reference numbers"):
        list(openvla_parity(tmp_path))
    (copy / "fixture.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="not a readable"):
        list(openvla_parity(copy))


def test_a_folder_whose_parts_do_not_fit_together(copy: Path) -> None:
    with np.load(copy / "fixture.npz") as file:
        held = dict(file)
    np.savez(copy / "fixture.npz", **{**held, "pixel_values": held["pixel_values"][:, :4]})
    with pytest.raises(DataError, match="its parts do not fit together"):
        list(openvla_parity(copy))
    del held["input_ids"]
    np.savez(copy / "fixture.npz", **held)
    with pytest.raises(DataError, match="input_ids"):
        list(openvla_parity(copy))
    tensors = load_file(copy / "model.safetensors")
    del tensors["projector.fc1.bias"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing projector\.fc1\.bias"):
        list(openvla_parity(copy))


def test_shapes_that_differ_are_infinitely_far(copy: Path) -> None:
    with np.load(copy / "fixture.npz") as file:
        held = dict(file)
    np.savez(copy / "fixture.npz", **{**held, "vision": held["vision"][:, :2]})
    found: dict[str, Quantity] = {quantity.name: quantity for quantity in openvla_parity(copy)}
    assert not found["vision"].passed
    assert found["projected"].passed


# --- the bench --------------------------------------------------------------------------------------------------------


def test_every_stage_is_timed() -> None:
    found = bench_openvla("tiny", repeats=2, threads=1, layers=1, batch_sizes=(1, 2))
    stages = [timing.stage for timing in found.timings if timing.batch == 1]
    steps = [f"decode step {at}" for at in range(1, 7)]
    assert stages == ["images", "vision", "projector", "prefill", *steps, "action of 7 tokens"]
    assert len(found.timings) == 2 * len(stages)
    assert all(0 < timing.p50_ms <= timing.p95_ms for timing in found.timings)
    assert (found.tokens, found.cut, found.dtype) == (7, "1 of 4 layers", "float32")
    assert found.positions == 64 + 19


def test_the_size_of_7b_is_known_without_allocating_it() -> None:
    held = memory_of(SIZES["7b"](), torch.bfloat16)
    weights = sum(held.values()) - held["keys and values"]
    assert weights == 15_082_474_368
    assert held["keys and values"] == 2 * 32 * (256 + 19 + 6) * 4096 * 2


def test_what_cannot_be_timed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="unknown name '8b'"):
        bench_openvla("8b")
    with pytest.raises(ContractError, match="expected 1 to 4, got 9"):
        config_of("tiny", layers=9)
    with pytest.raises(ContractError, match="expected repeats and batch sizes from 1 on"):
        bench_openvla("tiny", repeats=0)
    with pytest.raises(ContractError, match=r"expected cpu or cuda\[:N\], got 'abacus'"):
        bench_openvla("tiny", device="abacus")
    monkeypatch.setattr("actloop.testing.openvla_bench.free_bytes", lambda device: 16 * 10**9)
    with pytest.raises(ContractError, match=r"needs about 15\.2 GB in bfloat16 \(vision towers 1\.46 GB.*16\.0 GB"):
        bench_openvla("7b", dtype=torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_7b_runs_on_a_gpu() -> None:
    found = bench_openvla("7b", device="cuda", repeats=2)
    assert found.dtype == "bfloat16"
