"""Released folders, adapters, side files and fewer bits: from what others wrote to a policy of ours, or an error."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dots import BODY, picture
from safetensors.torch import load_file, save_file
from tiny_openvla import CONFIG, STATISTICS, acting, network, policy
from torch import Tensor, nn

from actloop.cli.openvla import import_openvla, imported
from actloop.contracts import Observation, embodiment_to_dict
from actloop.errors import CheckpointError, ContractError, DataError, MissingDependency, UnknownNameError
from actloop.models.checkpoint import load_policy
from actloop.models.openvla import ActingVLM, ActionConfig, OpenVLAPolicy, Pictures
from actloop.models.openvla.adapters import (
    LowRank,
    adapted_layers,
    linear_layers,
    load_adapter,
    merge,
    put_adapters,
    save_adapter,
)
from actloop.models.openvla.oft import ActionHead, ProprioProjector, load_side_file
from actloop.models.openvla.quantised import quantise, weight_bytes
from actloop.models.openvla.released import SETUPS, Setup, load_openvla, setup_for
from actloop.models.openvla.statistics import write_statistics
from actloop.models.prismatic import PrismaticConfig, PrismaticVLM, save_prismatic

SETUP = Setup(embodiment=BODY, pictures=Pictures.one_each(BODY), horizon=3)
OBS = Observation(images={"top": picture(0.4)}, state=np.array([0.4, 0.5], np.float32), tick=0, time=0.0)


def answer(policy: OpenVLAPolicy) -> np.ndarray:
    return policy.predict(policy.start("go left", seed=0), OBS)[1].chunk.actions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A released folder of a tiny network: 640 rows, of which 64 are padding, and a tokenizer of 576."""
    vlm = network()
    place = tmp_path / "openvla-tiny"
    save_prismatic(vlm, place, extra={"pad_to_multiple_of": 64, "llm_backbone_id": "llama2-7b-pure"})
    write_statistics(place, {"dots": STATISTICS, "others": STATISTICS})
    return place


# --- folders ----------------------------------------------------------------------------------------------------------


def test_what_belongs_to_a_robot_needs_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="give them with --body"):
        import_openvla(folder, tmp_path / "out.safetensors", unnorm_key="dots", gripper="bridge")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_released_folder_becomes_a_policy(folder: Path) -> None:
    loaded = load_openvla(folder, unnorm_key="dots", setup=SETUP)
    assert loaded.model.config.vocabulary == 576  # rows less padding: not the rows, not the tokenizer's length
    assert (loaded.horizon, loaded.conventions.template, loaded.conventions.constrained) == (1, "v1", True)
    assert answer(loaded).shape == (1, 2)
    assert loaded.describe()["tokens_per_action"] == 2
    with pytest.raises(UnknownNameError, match=r"unnorm_key.*did you mean 'dots'"):
        load_openvla(folder, unnorm_key="dot", setup=SETUP)
    with pytest.raises(ContractError, match="nothing is known of the robot of 'dots'"):
        load_openvla(folder, unnorm_key="dots")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_openvla(folder / "nowhere")


def test_the_first_release_is_asked_otherwise(folder: Path) -> None:
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, "llm_backbone_id": "vicuna-v15-7b"}))
    assert load_openvla(folder, unnorm_key="dots", setup=SETUP).conventions.template == "v0.1"


def test_what_is_missing_in_a_folder_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer beside it"):
        load_openvla(folder, unnorm_key="dots", setup=SETUP)
    (folder / "dataset_statistics.json").unlink()
    with pytest.raises(DataError, match="expected statistics by dataset"):
        load_openvla(folder, unnorm_key="dots", setup=SETUP)


def test_the_command_writes_one_file(folder: Path, tmp_path: Path) -> None:
    body, out = tmp_path / "body.json", tmp_path / "policy.safetensors"
    body.write_text(json.dumps(embodiment_to_dict(BODY)))
    loaded = import_openvla(folder, out, unnorm_key="dots", body=body, dtype="float32")
    again = load_policy(out, embodiment=BODY)
    assert isinstance(again, OpenVLAPolicy)
    np.testing.assert_allclose(answer(again), answer(loaded), atol=1e-6)
    assert "in the scale of 'dots'" in imported(loaded, out)
    body.write_text("[]")
    with pytest.raises(DataError, match="expected an embodiment"):
        import_openvla(folder, out, unnorm_key="dots", body=body)


def test_known_robots_are_data() -> None:
    libero, bridge = setup_for("libero_spatial_no_noops"), setup_for("bridge_orig")
    assert (libero.gripper, libero.horizon, libero.pictures.centre_crop) == ("robosuite", 8, 0.9)
    assert libero.pictures.mosaics[0].panels[0].rotate_180
    assert libero.more_pictures is not None
    assert len(libero.more_pictures.mosaics) == 2
    assert (bridge.gripper, bridge.horizon, bridge.pictures.centre_crop) == ("bridge", 5, 1.0)
    assert not bridge.pictures.mosaics[0].panels[0].rotate_180
    assert all(make().embodiment.action.size == 7 for make in SETUPS.values())


# --- OFT --------------------------------------------------------------------------------------------------------------


def side_files(folder: Path, head: nn.Module, projector: nn.Module) -> None:
    """As released: under the names of data-parallel training."""
    for name, module in (("action_head", head), ("proprio_projector", projector)):
        tensors = {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
        torch.save(tensors, folder / f"{name}--150000_checkpoint.pt")


def test_oft_side_files_are_found_and_used(folder: Path) -> None:
    trained = acting("l1", proprio=2, seed=1)
    assert trained.action_head is not None
    assert trained.proprio_projector is not None
    side_files(folder, trained.action_head, trained.proprio_projector)
    loaded = load_openvla(folder, unnorm_key="dots", setup=SETUP)
    assert (loaded.model.config.head, loaded.horizon, loaded.model.config.proprio_dim) == ("l1", 3, 2)
    assert loaded.model.action_head is not None
    torch.testing.assert_close(loaded.model.action_head.state_dict(), trained.action_head.state_dict())
    assert answer(loaded).shape == (3, 2)


def test_heads_have_the_released_names_and_sizes() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in ActionHead(16, 7).state_dict().items()}
    assert shapes["model.layer_norm1.weight"] == (112,)
    assert shapes["model.fc1.weight"] == (16, 112)
    assert shapes["model.mlp_resnet_blocks.1.ffn.0.weight"] == (16,)
    assert shapes["model.mlp_resnet_blocks.0.ffn.1.weight"] == (16, 16)
    assert shapes["model.fc2.weight"] == (7, 16)
    assert len(shapes) == 16
    assert set(ProprioProjector(16, 8).state_dict()) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_side_files_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "action_head--1_checkpoint.pt"
    torch.save(ActionHead(16, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"model\.layer_norm1\.weight: expected shape \(64,\), got \(32,\)"):
        load_side_file(ActionHead(32, 2), path)
    torch.save(ActionHead(32, 2).state_dict(), folder / "action_head--2_checkpoint.pt")
    with pytest.raises(CheckpointError, match="several action_head files"):
        load_openvla(folder, unnorm_key="dots", setup=SETUP)
    torch.save({"x": torch.zeros(1)}, folder / "vision_backbone--2_checkpoint.pt")
    with pytest.raises(CheckpointError, match="FiLM"):
        load_openvla(folder, unnorm_key="dots", setup=SETUP)


# --- adapters ---------------------------------------------------------------------------------------------------------


def moved(vlm: PrismaticVLM) -> PrismaticVLM:
    """Adapters that do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in vlm.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3, generator=generator)
    return vlm


def logits(vlm: PrismaticVLM) -> Tensor:
    return vlm.logits(vlm.hidden(vlm.embed(torch.ones(1, 1, 3, 16, 16), torch.tensor([[1, 7, 8, 9]])))).detach()


def test_an_adapter_is_saved_loaded_kept_or_merged(tmp_path: Path) -> None:
    vlm, plain = network(), logits(network())
    put_adapters(vlm, LowRank(rank=4, alpha=8))
    torch.testing.assert_close(logits(vlm), plain)  # B is zero: nothing has changed yet
    assert adapted_layers(vlm) == linear_layers(network())
    trained = logits(moved(vlm))
    assert not torch.allclose(trained, plain, atol=1e-2)
    save_adapter(vlm, LowRank(rank=4, alpha=8), tmp_path)
    other = network()
    assert load_adapter(other, tmp_path) == LowRank(rank=4, alpha=8)
    torch.testing.assert_close(logits(other), trained)
    merge(other)
    assert list(other.state_dict()) == list(network().state_dict())
    torch.testing.assert_close(logits(other), trained, atol=1e-4, rtol=1e-4)


def test_peft_reads_what_was_saved_and_a_released_target_list_is_read(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    vlm = network()
    put_adapters(vlm, LowRank(rank=4, alpha=8))
    save_adapter(moved(vlm), LowRank(rank=4, alpha=8), tmp_path / "ours")
    theirs = network()
    theirs.config = {"model_type": "custom"}  # type: ignore[assignment]
    loaded = PeftModel.from_pretrained(theirs, str(tmp_path / "ours"))
    held = {name.replace("base_model.model.", ""): t for name, t in loaded.state_dict().items() if ".lora_" in name}
    mine = {name: tensor for name, tensor in vlm.state_dict().items() if ".lora_" in name}
    torch.testing.assert_close(held, mine)
    short = network()
    short.config = theirs.config
    made = get_peft_model(short, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "fc1", "proj", "lm_head"]))
    moved(short)
    short.config = CONFIG
    made.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)
    again = network()
    assert load_adapter(again, tmp_path / "theirs") == LowRank(rank=2, alpha=4)
    adapted = {name.rpartition(".")[2] for name in adapted_layers(again)}
    assert adapted == {"q_proj", "fc1", "proj"}  # patch embeddings, convolutions, are called so too
    torch.testing.assert_close(logits(again), logits(short), atol=1e-4, rtol=1e-4)
    rows = torch.arange(320, 576)
    hidden = torch.ones(1, 32)
    torch.testing.assert_close(again.logits(hidden, rows), again.logits(hidden)[:, rows])  # merged where rows are taken


def test_adapters_of_the_full_size_have_as_many_numbers_as_released_ones() -> None:
    with torch.device("meta"):
        vlm = PrismaticVLM(PrismaticConfig.openvla_7b())
    layers = linear_layers(vlm)
    assert {"projector.fc3", "vision_backbone.fused_featurizer.attn_pool.kv"} <= set(layers)

    def numbers(names: list[str]) -> int:
        shapes = [vlm.get_submodule(name).weight.shape for name in names]  # type: ignore[union-attr]
        return sum(32 * (shape[0] + shape[1:].numel()) for shape in shapes)  # type: ignore[operator,union-attr,misc]

    released = [name for name, module in vlm.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert set(released) - set(layers) == {
        "language_model.lm_head",
        "vision_backbone.featurizer.patch_embed.proj",
        "vision_backbone.fused_featurizer.patch_embed.proj",
    }
    assert numbers(released) == 110_828_288  # what the released fine-tuning prints
    assert numbers(layers) == 109_563_904


def test_adapters_of_other_networks_or_kinds_are_refused(tmp_path: Path) -> None:
    vlm = network()
    put_adapters(vlm, LowRank(rank=4, alpha=8))
    save_adapter(vlm, LowRank(rank=4, alpha=8), tmp_path)
    with pytest.raises(CheckpointError, match="no such layer here"):
        load_adapter(nn.Sequential(nn.Linear(2, 2)), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    held = load_file(weights)
    whole = {"base_model.model.language_model.lm_head.base_layer.weight": torch.zeros(640, 32)}
    save_file({**held, **whole}, weights)
    vlm = network()
    load_adapter(vlm, tmp_path)
    assert not vlm.language_model.lm_head.weight.any()  # type: ignore[union-attr,operator]
    save_file({**held, "base_model.model.extra.weight": torch.zeros(2)}, weights)
    with pytest.raises(CheckpointError, match=r"unexpected extra\.weight"):
        load_adapter(network(), tmp_path)
    save_file(held, weights)
    config = tmp_path / "adapter_config.json"
    plain = json.loads(config.read_text())
    config.write_text(json.dumps({**plain, "use_dora": True}))
    with pytest.raises(CheckpointError, match=r"plain LoRA adapter, got LORA with \['use_dora'\]"):
        load_adapter(network(), tmp_path)
    config.write_text(json.dumps({**plain, "r": 8}))
    with pytest.raises(CheckpointError, match="expected shape"):
        load_adapter(network(), tmp_path)
    config.unlink()
    with pytest.raises(CheckpointError, match="not readable as an adapter"):
        load_adapter(network(), tmp_path)
    with pytest.raises(ContractError, match="put adapters in"):
        save_adapter(network(), LowRank(), tmp_path)
    with pytest.raises(ContractError, match="rank"):
        LowRank(rank=0)


def test_a_policy_takes_an_adapter_merged_or_not(folder: Path, tmp_path: Path) -> None:
    vlm = network()
    put_adapters(vlm, LowRank(rank=4, alpha=8))
    save_adapter(moved(vlm), LowRank(rank=4, alpha=8), tmp_path / "lora")
    plain = answer(load_openvla(folder, unnorm_key="dots", setup=SETUP))
    merged = load_openvla(folder, unnorm_key="dots", setup=SETUP, adapter=tmp_path / "lora")
    beside = load_openvla(folder, unnorm_key="dots", setup=SETUP, adapter=tmp_path / "lora", merged=False)
    np.testing.assert_array_equal(answer(merged), answer(beside))
    assert (answer(merged) != plain).any()
    merged.stored(half=False)
    with pytest.raises(ContractError, match="merge it before"):
        beside.stored(half=False)


# --- fewer bits -------------------------------------------------------------------------------------------------------


def test_bfloat16_halves_the_bytes_and_still_answers(folder: Path) -> None:
    full = load_openvla(folder, unnorm_key="dots", setup=SETUP)
    half = load_openvla(folder, unnorm_key="dots", setup=SETUP, quantised="bf16")
    assert weight_bytes(half.model) * 2 == weight_bytes(full.model)
    assert answer(half).dtype == np.float32


@pytest.mark.parametrize(("how", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_missing_library_is_named_with_the_command(how: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchao", "torchao.quantization", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=f"package '{package}'.*pip install {package}"):
        quantise(network(), how)


def test_only_the_language_layers_are_handed_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torchao, which is asked layer by layer; of bitsandbytes, whose layers are put in their place."""
    chosen: list[str] = []

    def quantize_(network: nn.Module, config: object, filter_fn: Callable[[nn.Module, str], bool]) -> None:
        chosen.extend(name for name, module in network.named_modules() if filter_fn(module, name))

    library = ModuleType("torchao.quantization")
    library.quantize_, library.Int8WeightOnlyConfig = quantize_, object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", library)
    quantise(network(), "int8")
    assert len(chosen) == 14  # seven in each of two layers
    assert all(name.startswith("language_model.model.layers.") for name in chosen)

    class Linear4bit(nn.Linear):
        def __init__(self, inputs: int, outputs: int, *, bias: bool, compute_dtype: Any, quant_type: str) -> None:
            super().__init__(inputs, outputs, bias=bias)
            assert (compute_dtype, quant_type) == (torch.bfloat16, "nf4")

    def stored(data: Tensor, *, requires_grad: bool, quant_type: str) -> nn.Parameter:
        assert data.dtype == torch.bfloat16
        return nn.Parameter(data.float(), requires_grad=requires_grad)

    bits = ModuleType("bitsandbytes")
    bits.nn = SimpleNamespace(Linear4bit=Linear4bit, Params4bit=stored)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", bits)
    vlm, plain = network(), logits(network())
    quantise(vlm, "nf4")
    found = [name for name, module in vlm.named_modules() if isinstance(module, Linear4bit)]
    assert found == chosen
    torch.testing.assert_close(logits(vlm), plain, atol=0.2, rtol=0.1)  # the weights themselves, in bfloat16
    assert not any(parameter.requires_grad for parameter in vlm.parameters())
    vlm.projector.fc1.weight = type("Packed", (nn.Parameter,), {})(vlm.projector.fc1.weight.data)
    with pytest.raises(ContractError, match="weights are quantised"):
        policy(model=ActingVLM(vlm, ActionConfig(action_dim=2, vocabulary=576))).stored(half=False)


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'int8'"):
        quantise(network(), "int4")
    with pytest.raises(ContractError, match="found none"):
        quantise(nn.Sequential(nn.Linear(2, 2)), "int8")
