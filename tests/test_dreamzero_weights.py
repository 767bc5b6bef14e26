"""DreamZero's weights: the released layout, its parts, adapters on their base, and the networks that stay frozen."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.dreamzero import DreamZero, DreamZeroConfig
from actloop.models.dreamzero.adapters import Declared, adapted, declared, save_adapter
from actloop.models.dreamzero.image import MEAN, STD, ImageTower, TowerConfig, tower_layout
from actloop.models.dreamzero.streaming import VideoStream
from actloop.models.dreamzero.weights import layout, load_network, load_release, split, start_from_wan
from actloop.models.tensors import read_tensors
from actloop.models.wan import WAN21, WanCodec
from actloop.models.wan.vae import VAEConfig

HEAD = "action_head.model."
TOWER = TowerConfig(width=32, feed_forward=48, heads=16, layers=3, patch=14, side=28, outputs=8)


def network() -> DreamZero:
    torch.manual_seed(0)
    return DreamZero(DreamZeroConfig.tiny())


def released(model: DreamZero) -> dict[str, Tensor]:
    return {f"{HEAD}{name}": tensor.detach() for name, tensor in model.state_dict().items()}


def shards(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """Two files and their index."""
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    folder.mkdir(parents=True, exist_ok=True)
    for file, held in halves.items():
        save_file({name: tensors[name].contiguous() for name in held}, folder / file)
    weight_map = {name: file for file, held in halves.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_read_strictly(tmp_path: Path) -> None:
    model = network()
    folder = shards(tmp_path / "DreamZero", released(model))
    release = load_release(folder, config=model.config, dtype=torch.float32)
    assert (release.text, release.image, release.vae) == (None, None, None)
    again = release.network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert load_network(folder, model.config, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="of neither released size"):
        load_network(folder)
    with pytest.raises(UnknownNameError, match="did you mean 'network'"):
        load_release(folder, config=model.config, parts=("netwrk",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{HEAD}blocks.1.cross_attn.k_img.bias"), "missing blocks.1.cross_attn.k_img.bias"),
        (lambda t: t.update({f"{HEAD}extra": torch.zeros(1)}), "unexpected extra"),
        (lambda t: t.update({"action_head.other.x": torch.zeros(1)}), r"unexpected action_head\.other\.x"),
        (lambda t: t.update({"stray": torch.zeros(1)}), "unexpected stray"),
        (lambda t: t.update({f"{HEAD}head.modulation": torch.zeros(1, 3, 48)}), r"head\.modulation: expected shape"),
        (lambda t: t.update({"action_head.vae.model.conv1.bias": torch.zeros(4)}), "not a Wan VAE"),
        (lambda t: t.update({"action_head.text_encoder.norm.weight": torch.zeros(4)}), "not a UMT5 encoder"),
    ],
)
def test_every_difference_is_named(tmp_path: Path, change: object, message: str) -> None:
    model = network()
    tensors = released(model)
    change(tensors)  # type: ignore[operator]
    folder = shards(tmp_path / "broken", tensors)
    with pytest.raises(CheckpointError, match=message):
        load_release(folder, config=model.config, dtype=torch.float32)


def test_the_small_release_has_the_sizes_of_its_paper() -> None:
    small = layout(DreamZeroConfig.wan22_5b())
    assert len(small) == 997
    count = sum(torch.Size(shape).numel() for shape in small.values())
    assert count == pytest.approx(5.607e9, rel=1e-3)
    large = layout(DreamZeroConfig.wan21_14b())
    assert len(large) == 1317
    assert sum(torch.Size(shape).numel() for shape in large.values()) == pytest.approx(16.484e9, rel=1e-4)
    assert (DreamZeroConfig.wan21_14b().frame_tokens, DreamZeroConfig.wan22_5b().frame_tokens) == (880, 50)


def test_raw_wan_weights_leave_actions_and_states_fresh(tmp_path: Path) -> None:
    source, model = network(), network()
    wan = {name: t + 1 for name, t in source.state_dict().items() if not name.startswith(("action", "state"))}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(wan, tmp_path / "wan.safetensors")
    fresh = start_from_wan(model, tmp_path / "wan.safetensors")
    assert {name.partition("_")[0] for name in fresh} == {"action", "state"}
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in fresh)
    assert all(torch.equal(after[name], tensor) for name, tensor in wan.items())
    # Wan2.2-TI2V knows no pictures; what is left out is all of them, or an error.
    pictures = ("img_emb", "k_img", "v_img")
    without = {name: tensor for name, tensor in wan.items() if not any(part in name for part in pictures)}
    save_file(without, tmp_path / "wan22.safetensors")
    assert any("norm_k_img" in name for name in start_from_wan(network(), tmp_path / "wan22.safetensors"))
    wan.pop("blocks.0.cross_attn.v_img.bias")
    save_file(wan, tmp_path / "torn.safetensors")
    with pytest.raises(CheckpointError, match=r"missing blocks\.0\.cross_attn\.v_img\.bias"):
        start_from_wan(network(), tmp_path / "torn.safetensors")


# --- adapters ---------------------------------------------------------------------------------------------------------


def adapter(model: DreamZero, rank: int = 2) -> dict[str, Tensor]:
    """As the released ones are named: pairs on some layers, and action and state modules whole."""
    torch.manual_seed(7)
    found = {}
    for layer in ("blocks.0.self_attn.q", "blocks.1.ffn.2"):
        outputs, inputs = model.get_parameter(f"{layer}.weight").shape
        prefix = f"{HEAD}base_model.model.{layer}"
        found[f"{prefix}.lora_A.default.weight"] = torch.randn(rank, inputs)
        found[f"{prefix}.lora_B.default.weight"] = torch.randn(outputs, rank)
    for name, tensor in model.state_dict().items():
        if name.startswith(("action", "state")):
            found[f"{HEAD}base_model.model.{name}"] = tensor + 1
    return found


def conf(folder: Path, base: str) -> Path:
    (folder / "experiment_cfg").mkdir(parents=True)
    (folder / "experiment_cfg" / "conf.yaml").write_text(f"trainer: x\npretrained_model_path: {base}\nlora_alpha: 4\n")
    return folder


def test_an_adapter_goes_on_the_base_that_it_names(tmp_path: Path) -> None:
    model = network()
    base = dict(model.state_dict())
    folder = conf(shards(tmp_path / "lora", adapter(model)), "GEAR-Dreams/DreamZero-AgiBot")
    said = declared(folder)
    assert said == Declared(base="GEAR-Dreams/DreamZero-AgiBot", fingerprint=None, alpha=4.0)
    held = split(read_tensors(folder), folder)["network"]
    merged = adapted(base, held, said, base_name="somewhere/DreamZero-AgiBot", source=folder)
    pairs = adapter(model)
    prefix = f"{HEAD}base_model.model.blocks.1.ffn.2"
    change = 4 / 2 * pairs[f"{prefix}.lora_B.default.weight"] @ pairs[f"{prefix}.lora_A.default.weight"]
    assert torch.allclose(merged["blocks.1.ffn.2.weight"], base["blocks.1.ffn.2.weight"] + change, atol=1e-5)
    assert torch.equal(merged["action_decoder.layer1.W"], base["action_decoder.layer1.W"] + 1)
    assert torch.equal(merged["blocks.0.ffn.0.weight"], base["blocks.0.ffn.0.weight"])
    assert set(merged) == set(base)
    with pytest.raises(
        CheckpointError, match=r"trained on GEAR-Dreams/DreamZero-AgiBot, but the base given is .*Wan2\.1"
    ):
        adapted(base, held, said, base_name="models/Wan2.1-I2V-14B-480P", source=folder)
    with pytest.raises(CheckpointError, match="holds an adapter"):
        load_network(folder, model.config)


def test_an_adapter_of_ours_knows_the_weights_of_its_base(tmp_path: Path) -> None:
    model = network()
    base = dict(model.state_dict())
    pairs = {name.removeprefix(HEAD): tensor for name, tensor in adapter(model).items()}
    save_adapter(tmp_path / "ours", pairs, base=base, base_name="mine", alpha=2.0)
    held, said = read_tensors(tmp_path / "ours"), declared(tmp_path / "ours")
    merged = adapted(base, held, said, base_name="the same under another name", source="ours")
    assert (merged["blocks.0.self_attn.q.weight"] != base["blocks.0.self_attn.q.weight"]).any()
    other = base | {"blocks.0.self_attn.q.weight": base["blocks.0.self_attn.q.weight"] * 1.01}
    with pytest.raises(CheckpointError, match="trained on mine with fingerprint"):
        adapted(other, held, said, base_name="mine", source="ours")


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = network()
    base = dict(model.state_dict())
    held = {name.removeprefix(HEAD): tensor for name, tensor in adapter(model).items()}
    said = Declared(base="base", fingerprint=None, alpha=4.0)

    def put(tensors: dict[str, Tensor], said: Declared = said) -> None:
        adapted(base, tensors, said, base_name="base", source="x")

    put(held)
    half = {name: tensor for name, tensor in held.items() if "lora_B" not in name}
    with pytest.raises(CheckpointError, match="half a pair"):
        put(half)
    stray = {name.replace("blocks.0", "blocks.9"): tensor for name, tensor in held.items()}
    with pytest.raises(CheckpointError, match=r"blocks\.9\.self_attn\.q: a pair"):
        put(stray)
    with pytest.raises(CheckpointError, match="says nowhere on which base"):
        put(held, Declared(base=None, fingerprint=None, alpha=4.0))
    with pytest.raises(CheckpointError, match="alpha nowhere"):
        put(held, Declared(base="base", fingerprint=None, alpha=None))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="expected an object"):
        declared(tmp_path)
    with pytest.raises(CheckpointError, match="expected tensors named"):
        save_adapter(tmp_path, {"a": torch.zeros(1)}, base=base, base_name="base", alpha=1.0)


# --- frozen networks --------------------------------------------------------------------------------------------------


def tower_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in tower_layout(TOWER).items()}


def by_hand(tensors: dict[str, Tensor], frames: Tensor) -> Tensor:
    """The tower as its paper draws it, all blocks but the last."""
    get = {name.removeprefix("visual."): tensor for name, tensor in tensors.items()}
    width, heads = TOWER.width, TOWER.heads
    pictures = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    pictures = functional.interpolate(pictures, size=(28, 28), mode="bicubic", align_corners=False) * 0.5 + 0.5
    pictures = (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    x = functional.conv2d(pictures, get["patch_embedding.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([get["cls_embedding"].expand(len(x), -1, -1), x], dim=1) + get["pos_embedding"]
    x = functional.layer_norm(x, (width,), get["pre_norm.weight"], get["pre_norm.bias"])
    for layer in range(TOWER.layers - 1):
        part = {
            k.removeprefix(f"transformer.{layer}."): t for k, t in get.items() if k.startswith(f"transformer.{layer}.")
        }
        y = functional.layer_norm(x, (width,), part["norm1.weight"], part["norm1.bias"])
        q, k, v = functional.linear(y, part["attn.to_qkv.weight"], part["attn.to_qkv.bias"]).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        x = x + functional.linear(
            (scores @ v).transpose(1, 2).flatten(2), part["attn.proj.weight"], part["attn.proj.bias"]
        )
        y = functional.layer_norm(x, (width,), part["norm2.weight"], part["norm2.bias"])
        y = functional.gelu(functional.linear(y, part["mlp.0.weight"], part["mlp.0.bias"]))
        x = x + functional.linear(y, part["mlp.2.weight"], part["mlp.2.bias"])
    return x


def test_the_image_tower_is_the_librarys_on_released_names() -> None:
    tensors = tower_tensors()
    tower = ImageTower.from_tensors(tensors, "tower", TOWER, dtype=torch.float32)
    frames = torch.randint(0, 256, (2, 20, 36, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tokens = tower.encode(frames)
    assert tokens.shape == (2, TOWER.tokens, TOWER.width)
    assert (tokens - by_hand(tensors, frames)).abs().max() < 1e-4
    assert len(tower_layout()) == 393
    with pytest.raises((ContractError, TypeError), match=r"uint8|UInt8"):  # a type checker is quicker
        tower.encode(frames.float())
    tensors.pop("visual.transformer.2.mlp.0.bias")  # of the block that is not run: still part of the release
    with pytest.raises(CheckpointError, match=r"missing visual\.transformer\.2\.mlp\.0\.bias"):
        ImageTower.from_tensors(tensors, "tower", TOWER)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_stream_encodes_what_the_whole_clip_encodes(patch: int) -> None:
    torch.manual_seed(0)
    channels, residual = (16, False) if patch == 1 else (48, True)
    config = VAEConfig(channels=channels, width=8, decoder_width=8, patch=patch, residual=residual)
    codec, side = WanCodec.untrained(config), config.spatial
    frames = torch.randint(0, 256, (1, 17, side, side, 3), dtype=torch.uint8)
    whole = codec.encode(frames)
    streams = [VideoStream(codec), VideoStream(codec)]  # interleaved: each remembers its own past
    parts: list[list[Tensor]] = [[], []]
    for start, stop in ((0, 1), (1, 9), (9, 13), (13, 17)):
        for stream, found, clip in zip(streams, parts, (frames, frames.flip(1)), strict=True):
            found.append(stream.encode(clip[:, start:stop]))
    assert (torch.cat(parts[0], dim=1) - whole).abs().max() < 1e-5
    assert (torch.cat(parts[1], dim=1) - codec.encode(frames.flip(1))).abs().max() < 1e-5
    with pytest.raises(ContractError, match="4k frames, got 3"):
        streams[0].encode(frames[:, :3])
    streams[0].restart()
    with pytest.raises(ContractError, match=r"1 \+ 4k frames, got 4"):
        streams[0].encode(frames[:, :4])
    with pytest.raises(ContractError, match="multiples"):
        streams[0].encode(frames[:, :1, : side // 2])
    assert torch.equal(streams[0].encode(frames[:, :1]), parts[0][0])


def test_the_codec_of_the_release_is_wans() -> None:
    assert WAN21.spatial == 8
