"""The sentence in which OpenVLA is asked, as token ids.

    instruction --template--> text --tokenizer--> ids (+ 29871 where the tokenizer is Llama 2's)

In training the answer followed a space: Llama 2's tokenizer made of `Out: ` + the characters of the action tokens the
lone-space token 29871 in between, in every sequence. A prompt must not end with that space when it is tokenised, so
the id is appended here, never a character; action ids are spliced in the same way, without a detour over text.
"""

from actloop.errors import UnknownNameError
from actloop.models.backbone import Tokens

LLAMA2_SPACE = 29871
_PROBE = "In: What action should the robot take to pick up the cup?\nOut:"
_PROBE_IDS = (512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304, 5839, 701, 278, 18002, 29973, 13, 3744, 29901)

_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATES = {
    "v1": "In: What action should the robot take to {instruction}?\nOut:",
    "v1-state": "In: What action should the robot take to {instruction}?\nState: {state}\nOut:",
    "v0.1": _SYSTEM + " USER: What action should the robot take to {instruction}? ASSISTANT:",
}
STATED = frozenset(name for name, text in TEMPLATES.items() if "{state}" in text)
"""Templates, not among the released ones, that say the robot's state (state_words.py)."""


def question(instruction: str, template: str = "v1", state: str = "") -> str:
    """The prompt's text; the instruction is put in lower case, as in training. `state`, in words, is for `STATED`.

    Raises:
        UnknownNameError: no such template.
    """
    if template not in TEMPLATES:
        raise UnknownNameError("template", template, TEMPLATES)
    return TEMPLATES[template].format(instruction=instruction.strip().lower(), state=state)


def is_llama2(tokens: Tokens) -> bool:
    """Whether a tokenizer is Llama 2's (or Vicuna's, the same), by the ids that it gives a known sentence."""
    return tuple(tokens.encode(_PROBE)) == _PROBE_IDS


def prompt_ids(tokens: Tokens, instruction: str, template: str = "v1", state: str = "") -> list[int]:
    """Ids of the prompt without the token that begins a sequence; action tokens follow them directly.

    Raises:
        UnknownNameError: no such template.
    """
    ids = tokens.encode(question(instruction, template, state))
    if is_llama2(tokens) and ids[-1] != LLAMA2_SPACE:
        ids.append(LLAMA2_SPACE)
    return ids
