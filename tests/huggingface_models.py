"""Tiny random vision-language models of three families, made on the spot in a folder; nothing is downloaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ["<unk>", "<pad>", "<s>", "</s>", ":", "?", "what", "action", "should", "the", "robot", "take", "to", "open"]
WORDS += ["drawer", "A", "Q", "yes", "no", "red", "block"]
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SEED = 5


def save_paligemma(folder: Path) -> None:
    """Bidirectional prompts, bare image tokens before them."""
    import transformers

    tokenizer = _tokenizer([], bos="<s>")
    pictures = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    pictures.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(pictures, tokenizer)
    text = SMALL | {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(processor.tokenizer)}
    config = transformers.PaliGemmaConfig(
        vision_config=SMALL | {"image_size": 16, "patch_size": 8, "model_type": "siglip_vision_model"},
        text_config=text | {"model_type": "gemma", "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
        image_token_id=processor.image_token_id, projection_dim=32, pad_token_id=1, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    _save(transformers.PaliGemmaForConditionalGeneration, config, folder)
    processor.save_pretrained(folder)


def save_smolvlm(folder: Path) -> None:
    """Chat template; pictures may be shown in tiles."""
    import transformers

    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = _tokenizer([*marks, *(f"<row_{row}_col_{col}>" for row in (1, 2, 3, 4) for col in (1, 2, 3, 4))])
    size = {"longest_edge": 64}
    pictures = transformers.SmolVLMImageProcessorPil(
        do_image_splitting=True, size=size, max_image_size={"longest_edge": 32}
    )
    config = transformers.SmolVLMConfig(
        vision_config=SMALL | {"image_size": 32, "patch_size": 8},
        text_config=SMALL | {"model_type": "llama", "num_key_value_heads": 2, "vocab_size": len(tokenizer)},
        scale_factor=2, image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=1,
    )  # fmt: skip
    _save(transformers.SmolVLMForConditionalGeneration, config, folder, ends=[_id(tokenizer, "<end_of_utterance>"), 3])
    template = (
        "{% for m in messages %}{{m['role']}} :{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{c['text']}}{% endif %}{% endfor %}<end_of_utterance>{% endfor %}"
        "{% if add_generation_prompt %} Assistant:{% endif %}"
    )
    _save_parts(folder, tokenizer, pictures, template, "SmolVLMProcessor", image_seq_len=4)


def save_qwen(folder: Path) -> None:
    """Pictures of any size as rows of patches; positions in three dimensions."""
    import transformers

    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(marks)
    pictures = transformers.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64)
    text = SMALL | {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "head_dim": 16}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "patch_size": 4}
    config = transformers.Qwen3VLConfig(
        vision_config=vision | {"out_hidden_size": 32, "spatial_merge_size": 2, "deepstack_visual_indexes": [0],
                                "num_position_embeddings": 16},
        text_config=text | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
        image_token_id=_id(tokenizer, "<|image_pad|>"), video_token_id=_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_id(tokenizer, "<|vision_start|>"), vision_end_token_id=_id(tokenizer, "<|vision_end|>"),
    )  # fmt: skip
    _save(transformers.Qwen3VLForConditionalGeneration, config, folder, ends=[_id(tokenizer, "<|im_end|>")])
    template = (
        "{% for m in messages %}<|im_start|>{{m['role']}}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{c['text']}}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    _save_parts(folder, tokenizer, pictures, template, "Qwen3VLProcessor")


FAMILIES: dict[str, Callable[[Path], None]] = {"paligemma": save_paligemma, "smolvlm": save_smolvlm, "qwen": save_qwen}


def _tokenizer(marks: list[str], bos: str | None = None) -> Any:
    """Words and, with a space before or without, every single digit: an integer takes as many tokens as digits."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [*WORDS, *(f"▁{word}" for word in WORDS[4:]), *"▁0123456789", *(f"▁{digit}" for digit in "0123456789")]
    merges = [("▁", digit) for digit in "0123456789"]
    letters = sorted({letter for word in WORDS[4:] for letter in word} - set(pieces))
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces + letters))}
    tokens = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokens.decoder = decoders.Metaspace(prepend_scheme="first")
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"bos_token": bos} if bos else {})
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, additional_special_tokens=marks, **names)


def _id(tokenizer: Any, token: str) -> int:
    found: int = tokenizer.convert_tokens_to_ids(token)
    return found


def _save(kind: Any, config: Any, folder: Path, ends: list[int] | None = None) -> None:
    import torch

    torch.manual_seed(SEED)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)  # far enough apart that greedy choices have no ties
    model.generation_config.eos_token_id = ends or 3
    model.save_pretrained(folder)


def _save_parts(folder: Path, tokenizer: Any, pictures: Any, template: str, kind: str, **facts: object) -> None:
    """A processor's files, whose class cannot be made where there is no torchvision."""
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind, **facts}), encoding="utf-8")
