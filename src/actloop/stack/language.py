"""A Hugging Face vision-language model of a local folder: whatever `AutoModelForImageTextToText` reads.

images, prompt --chat template, or image tokens before the prompt--> processor --> generate, greedily --> text
"""

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from actloop.contracts import Frame
from actloop.errors import CheckpointError, ContractError, MissingDependency


class HuggingFaceVLM:
    """A `VisionLanguageModel`. Nothing is downloaded, and no code that comes with weights is run.

    Args:
        folder: weights, configuration and processor, as `save_pretrained` writes them.
        device: `cpu`, `cuda`, ... On a CPU it computes in float32, elsewhere in the format of its weights.

    Raises:
        MissingDependency: transformers is not installed.
        CheckpointError: no such folder, or it does not hold such a model.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        if not Path(folder).is_dir():
            raise CheckpointError(f"{folder}: no such folder; name one that holds a Hugging Face model")
        try:
            library = import_module("transformers")
        except ModuleNotFoundError as error:
            why = "vision-language models need it"
            raise MissingDependency("package 'transformers'", why, 'pip install "actloop[wan]"') from error
        options: dict[str, Any] = {"local_files_only": True}
        dtype = "float32" if device == "cpu" else "auto"
        try:
            self._processor: Any = library.AutoProcessor.from_pretrained(folder, **options)
            model: Any = library.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **options)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            reason = f"not a vision-language model ({type(error).__name__}: {reason})"
            raise CheckpointError(f"{folder}: {reason}") from error
        self._model = model.to(device).eval()
        self._device = device

    def generate(self, images: Sequence[Frame], prompt: str, *, max_tokens: int, seed: int) -> str:
        """The answer, by greedy decoding: the seed changes nothing.

        Raises:
            ContractError: the model cannot be shown so many pictures, or such a prompt.
        """
        pillow = import_module("PIL.Image")
        pictures = [pillow.fromarray(image) for image in images]
        try:
            asked = self._asked(len(pictures), prompt)
            inputs = self._processor(text=asked, images=pictures or None, return_tensors="pt")
        except (ValueError, IndexError, TypeError) as error:
            reason = f"cannot be asked {prompt!r} about {len(images)} pictures ({error})"
            raise ContractError("language model", reason) from error
        inputs = inputs.to(self._device, dtype=self._model.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about sampling settings, which greedy decoding ignores
            said = self._model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        answer = said[0, inputs["input_ids"].shape[1] :]
        text: str = self._processor.decode(answer, skip_special_tokens=True)
        return text.strip()

    def _asked(self, pictures: int, prompt: str) -> str:
        """The prompt in the form that the model was trained on."""
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}] * pictures + [{"type": "text", "text": prompt}]
            asked: str = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return asked
        token = getattr(self._processor, "image_token", "")
        return str(token) * pictures + prompt
