"""The Prismatic vision-language model: OpenVLA's network, and with small numbers our own.

config.py    sizes, also of released folders       vision.py   two kinds of ViT, the projector
language.py  Llama, static memory, decoding        model.py    the whole, as a `LanguageBackbone`
images.py    frames to pixels                      tokens.py   text to ids
weights.py   Hugging Face layout and native files
"""

from actloop.models.prismatic.config import LanguageConfig, PrismaticConfig, TowerConfig
from actloop.models.prismatic.images import ImageProcessor
from actloop.models.prismatic.language import Decoding
from actloop.models.prismatic.model import PIXELS, PrismaticVLM
from actloop.models.prismatic.tokens import TextTokens, train_tokens
from actloop.models.prismatic.weights import load_native, load_prismatic, save_prismatic

__all__ = [
    "PIXELS",
    "Decoding",
    "ImageProcessor",
    "LanguageConfig",
    "PrismaticConfig",
    "PrismaticVLM",
    "TextTokens",
    "TowerConfig",
    "load_native",
    "load_prismatic",
    "save_prismatic",
    "train_tokens",
]
