"""What acting computes how often, compiled against eager, the memory it takes, and the benchmark of its stages."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actloop.cli.bench import show_bench
from actloop.errors import ContractError, UnknownNameError
from actloop.models.fastwam import Continuation, FastWAM, FastWAMConfig, Noise, Seen, leftover
from actloop.models.fastwam.compiled import CompiledFastWAM
from actloop.models.fastwam.memory import memory_report, total_bytes
from actloop.models.fastwam.releases import libero
from actloop.models.fastwam.sampling import Acting
from actloop.testing import fastwam_bench
from actloop.testing.fastwam_bench import bench_fastwam, config_of, random_model

STEPS, LAYERS = 3, 2


def make_model(variant: str = "fast", **changes: object) -> FastWAM:
    """The released form, small: contexts of a text encoder, no stem."""
    sizes = {"vocabulary": 0, "stem_channels": 0, "layers": LAYERS, "denoising_steps": STEPS, **changes}
    torch.manual_seed(0)
    return random_model(FastWAMConfig.tiny(variant=variant, **sizes), torch.device("cpu"), torch.float32)


def observation(config: FastWAMConfig, seed: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    frame = torch.randn(batch, 1, config.latent_channels, config.latent_height, config.latent_width, generator=g)
    return frame, torch.randn(batch, config.state_dim, generator=g)


def words(config: FastWAMConfig, batch: int = 1) -> Tensor:
    return torch.randn(batch, config.text_tokens, config.text_dim, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def observed(model: FastWAM, seed: int = 1, batch: int = 1) -> Seen:
    return model.see(*observation(model.config, seed, batch), model.prompt(words(model.config, batch)))


def noise(model: FastWAM, seed: int, samples: int = 1) -> Noise:
    return model.noise(samples, torch.Generator().manual_seed(seed))


class Counting:
    """Calls of modules by name, with the tokens that each call was given."""

    def __init__(self, model: FastWAM) -> None:
        self.calls: list[tuple[str, int]] = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) or name.endswith(("text_embedding", "time_embedding")):
                module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: self.calls.append((name, inputs[0].shape[-2]))

    def of(self, part: str) -> Counter[int]:
        """Tokens per call: how many calls."""
        return Counter(tokens for name, tokens in self.calls if part in name)


@pytest.fixture
def attentions(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """The mask of every attention that runs."""
    masks: list[Tensor | None] = []
    plain = functional.scaled_dot_product_attention

    def counted(*tensors: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        masks.append(attn_mask)
        return plain(*tensors, attn_mask=attn_mask)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    return masks


@torch.no_grad()
def test_each_constant_is_computed_once(attentions: list[Tensor | None]) -> None:
    model = make_model()
    counting, text = Counting(model), model.config.text_tokens
    prompt = model.prompt(words(model.config))
    for at in range(3):
        seen = model.see(*observation(model.config, at), prompt)
        for replan in range(2):
            model.act(seen, noise(model, replan))

    for expert in ("video", "action"):  # the text once, and per observation one more token: the state
        assert counting.of(f"{expert}.text_embedding.0") == {text: 1, 1: 3}
        for layer in range(LAYERS):
            for part in "kv":
                assert counting.of(f"{expert}.blocks.{layer}.cross_attn.{part}") == {text: 1, 1: 3}
    tokens = model.config.rows * model.config.columns
    for layer in range(LAYERS):  # the first frame once per observation
        assert counting.of(f"video.blocks.{layer}.self_attn.v") == {tokens: 3}
    assert counting.of("action.time_embedding.0") == {STEPS: 6}  # all steps of a chunk together
    assert counting.of("video.time_embedding.0") == {1: 3}
    assert counting.of("action.blocks.0.self_attn.q") == {model.config.horizon: 6 * STEPS}
    # First frame: all but the last layer attend, twice each. Actions: all layers.
    assert len(attentions) == 3 * 2 * (LAYERS - 1) + 6 * STEPS * 2 * LAYERS


@torch.no_grad()
def test_counting_would_notice(attentions: list[Tensor | None]) -> None:
    """The hooks see what the layers call, although these run without their modules where nobody listens."""
    model = make_model()
    counting = Counting(model)
    prompt = model.prompt(words(model.config))
    model.prompt(words(model.config))
    seen = model.see(*observation(model.config, 0), prompt)
    model.action.context(prompt.text)
    model.act(seen, noise(model, 0))
    assert counting.of("action.text_embedding.0")[model.config.text_tokens] == 3
    assert counting.of("action.blocks.1.ffn.2") == {model.config.horizon: STEPS}


@pytest.mark.parametrize("variant", ["no-cotrain", "fast", "joint", "idm", "optional-idm"])
def test_no_mask_where_all_is_visible(variant: str, attentions: list[Tensor | None]) -> None:
    model = make_model(variant)
    model.act(observed(model), noise(model, 0))
    assert attentions
    assert all(mask is None for mask in attentions)


@pytest.mark.parametrize("variant", ["fast", "joint", "idm"])
def test_listening_changes_nothing(variant: str) -> None:
    model = make_model(variant)
    seen = observed(model)
    plain = model.act(seen, noise(model, 0))[0]
    Counting(model)
    assert torch.equal(model.act(seen, noise(model, 0))[0], plain)


@pytest.mark.parametrize("variant", ["fast", "joint", "idm"])
def test_samples_of_one_observation_are_those_of_single_runs(variant: str) -> None:
    model = make_model(variant)
    seen, many = observed(model), noise(model, 0, samples=3)
    together = model.act(seen, many)[0]
    for at in range(3):
        one = Noise(action=many.action[at : at + 1], video=many.video[at : at + 1])
        assert torch.allclose(model.act(seen, one)[0], together[at : at + 1], atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_acting_again_does_not_see_the_last_time() -> None:
    model = make_model("idm")
    first, second = observed(model, 1), observed(model, 2)
    alone = model.act(second, noise(model, 0))[0]
    model.act(first, noise(model, 3))
    assert torch.equal(model.act(second, noise(model, 0))[0], alone)


def test_adapters_are_not_passed_by() -> None:
    peft = pytest.importorskip("peft")
    model = make_model()
    seen = observed(model)
    before = model.act(seen, noise(model, 0))[0]
    lora = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q", "v", "o", "ffn.0"])
    peft.inject_adapter_in_model(lora, model.action)
    assert torch.allclose(model.act(seen, noise(model, 0))[0], before, atol=1e-6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    adapted = model.act(seen, noise(model, 0))[0]
    assert (adapted - before).abs().max() > 1e-2
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    assert torch.allclose(model.act(seen, noise(model, 0))[0], adapted, atol=1e-4)


def test_weights_may_change_between_chunks() -> None:
    model = make_model()
    seen = observed(model)
    before = model.act(seen, noise(model, 0))[0]
    with torch.no_grad():
        model.action.block(0).self_attn.norm_q.weight.mul_(3.0)
    assert (model.act(seen, noise(model, 0))[0] - before).abs().max() > 1e-4


# --- beside the released loop -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def side_by_side() -> Iterator[ModuleType]:
    path = Path(__file__).parents[1] / "benchmarks" / "fastwam_action_loop.py"
    spec = importlib.util.spec_from_file_location("fastwam_action_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@torch.no_grad()
def test_released_loop_gives_our_actions(side_by_side: ModuleType) -> None:
    model = make_model()
    frame, state = observation(model.config, 1)
    text = words(model.config)
    seen = model.see(frame, state, model.prompt(text))
    at = side_by_side.scene(model, text, state, seen, noise(model, 0))
    outputs = {name: run() for name, run in side_by_side.loops(at).items()}
    assert len(outputs) == 4
    for out in outputs.values():
        assert torch.allclose(out, outputs["released"], atol=1e-5)
    other = replace(at, context=at.context + 1)
    assert not torch.allclose(side_by_side.loops(other)["released"](), outputs["released"], atol=1e-3)


# --- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own use of torch.jit
def test_compiled_is_eager() -> None:
    import torch._dynamo.utils as dynamo

    graphs = []
    for layers in (2, 4):
        model = make_model("joint", layers=layers)
        runner = CompiledFastWAM(model)
        frame, state = observation(model.config, 1)
        with torch.no_grad():
            prompt = model.prompt(words(model.config))
        seen = runner.see(frame, state, prompt)
        ours, future = runner.act(seen, noise(model, 0))
        theirs, expected = model.act(model.see(frame, state, prompt), noise(model, 0))
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert torch.allclose(future, expected, atol=1e-5)
        graphs.append(dynamo.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0  # one for all layers: depth compiles nothing more


class OnlyHere(TorchDispatchMode):
    """Fails where anything lies on another device: copies from the host cannot be recorded in a CUDA graph."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.kernels = device, 0

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            assert not isinstance(tensor, Tensor) or tensor.device.type == self.device, func
        self.kernels += 1
        return out


@pytest.mark.parametrize("how", [None, "prefix", "guided-identity", "trained"])
@pytest.mark.parametrize("variant", ["fast", "joint", "idm"])
@torch.no_grad()
def test_steps_leave_the_host_alone(variant: str, how: Continuation | None) -> None:
    model = make_model(variant, committed_max=2).to("meta")
    config = model.config
    frame, state = (tensor.to("meta") for tensor in observation(config, 1))
    prompt = model.prompt(words(config).to("meta"))
    seen, drawn = model.see(frame, state, prompt), noise(model, 0)
    drawn = Noise(action=drawn.action.to("meta"), video=drawn.video.to("meta"))
    left = None
    if how is not None:
        plan = torch.zeros(1, 3, config.action_dim, device="meta")
        left = leftover(plan, fixed=2, horizon=config.horizon, how=how)
    acting = Acting(model, seen, drawn, left=left, skip_future=False)
    with OnlyHere("meta") as watching:
        acting.run()
        model.see(frame, state, prompt)
    assert watching.kernels > 100


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["fast", "joint", "idm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_are_eager(variant: str, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    config = FastWAMConfig.tiny(variant=variant, vocabulary=0, stem_channels=0)
    model = random_model(config, torch.device("cuda"), dtype)
    runner = CompiledFastWAM(model)
    with torch.no_grad():
        prompt = model.prompt(words(config).cuda())
    for seed in range(3):  # the second and third replay what the first recorded
        frame, state = (tensor.cuda() for tensor in observation(config, seed))
        drawn = noise(model, seed)
        drawn = Noise(action=drawn.action.cuda(), video=drawn.video.cuda())
        ours, _ = runner.act(runner.see(frame, state, prompt), drawn)
        theirs, _ = model.act(model.see(frame, state, prompt), drawn)
        assert torch.allclose(ours, theirs, atol=1e-4 if dtype == torch.float32 else 0.2)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_of_the_released_network() -> None:
    parts = {part.name: part.bytes for part in memory_report(libero().config, torch.bfloat16)}
    weights = sum(parts[name] for name in ("video expert", "action expert", "state encoder and the rest"))
    assert weights == 2 * 6_020_710_599
    assert parts["video expert"] == 2 * 4_999_787_712
    assert parts["action expert"] == 2 * 1_020_886_023
    assert parts["first frame"] == 30 * 2 * 98 * 3072 * 2
    assert parts["context of both experts"] == 2 * 30 * 2 * 128 * 3072 * 2


def test_what_the_24_gb_mode_leaves_out_is_what_does_not_fit() -> None:
    lean = total_bytes(memory_report(libero().config, torch.bfloat16))
    whole = total_bytes(memory_report(libero().config, torch.bfloat16, decoder=True, text_encoder=True))
    assert lean < 14e9
    assert whole > 24e9


def test_memory_grows_with_the_batch_and_not_the_weights() -> None:
    one, four = (memory_report(FastWAMConfig.tiny(), torch.float32, batch=batch, wan=False) for batch in (1, 4))
    for before, after in zip(one, four, strict=True):
        assert after.bytes == before.bytes * (1 if before.when == "always" else 4)


def test_first_frame_takes_what_the_report_says() -> None:
    model = make_model()
    parts = {part.name: part.bytes for part in memory_report(model.config, torch.float32, wan=False)}
    seen = observed(model)
    held = sum(t.numel() * t.element_size() for pair in seen.past["first"] for t in pair)
    context = sum(
        t.numel() * t.element_size() for name in ("video", "action") for p in getattr(seen.reading, name) for t in p
    )
    assert parts["first frame"] == held
    assert parts["context with the state"] == context


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_bench_times_every_stage() -> None:
    found = bench_fastwam("tiny", batch_sizes=(1, 2), repeats=2, threads=1)
    stages = [(timing.stage, timing.variant) for timing in found if timing.batch == 2]
    assert stages == [
        ("codec encode", ""),
        ("prompt", ""),
        ("prefill", ""),
        ("action step", ""),
        ("chunk", "fast"),
        ("chunk", "joint"),
        ("chunk", "idm"),
    ]
    assert all(0 < timing.p50_ms <= timing.p95_ms for timing in found)
    assert len(found) == 14
    chunks = {timing.variant: timing.p50_ms for timing in found if timing.stage == "chunk" and timing.batch == 1}
    assert chunks["fast"] < chunks["idm"]


def test_bench_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_bench("tiny", batch_sizes=(1,), repeats=1, layers=1, variants=("fast",))
    table = capsys.readouterr().out
    assert "CUT TO 1 of 2 layers" in table
    assert "action step" in table
    assert "first frame" in table
    show_bench("tiny", batch_sizes=(1,), repeats=1, variants=("fast",), json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["cut"] == ""
    assert found["stages"][-1]["variant"] == "fast"
    assert found["memory_bytes"] == sum(part["bytes"] for part in found["memory"])


def test_memory_alone_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fastwam_bench, "random_model", lambda *_: pytest.fail("allocated"))
    show_bench("full", dtype="bfloat16", memory=True)
    assert "9,999.6" in capsys.readouterr().out


def test_cut_keeps_the_widths() -> None:
    whole, cut = config_of("full"), config_of("full", layers=2)
    assert cut.layers == 2
    assert replace(cut, layers=30) == whole


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": "ful"}, "full"),
        ({"size": "full", "layers": 31}, "expected 1 to 30"),
        ({"batch_sizes": (0,)}, "from 1 on"),
        ({"repeats": 0}, "from 1 on"),
        ({"threads": 0}, "1 or more"),
        ({"device": "abacus"}, "expected cpu or cuda"),
        ({"variants": ("jont",)}, "joint"),
    ],
)
def test_bench_refuses(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        bench_fastwam(**{"size": "tiny", **wrong})


def test_bench_refuses_names_at_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match="bfloat16"):
        show_bench("tiny", dtype="bfloat61")


def test_bench_says_what_does_not_fit_before_it_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastwam_bench, "free_bytes", lambda device: 16_000_000_000)
    monkeypatch.setattr(fastwam_bench, "random_model", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ContractError, match=r"needs about 2\d\.\d GB in float32, and 16\.0 GB"):
        bench_fastwam("full")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_bench_without_the_device_asked_for() -> None:
    with pytest.raises(ContractError, match="no CUDA device"):
        bench_fastwam("tiny", device="cuda")
