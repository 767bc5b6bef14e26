"""Training DreamZero on a robot's recordings, with video of others beside them; and bringing it to another robot.

recordings, declaration --samples.py, pictures.py--> clips --batches.py--> clips of several robots, their noise
    --learner.py, ../loop.py--> trained tensors --run.py--> DreamZeroPolicy, one file
"""

from actloop.training.dreamzero.recipe import DreamZeroRecipe, LowRankLayers, released_recipe, small_robot, small_sizes
from actloop.training.dreamzero.run import (
    VideoOnly,
    adapt_dreamzero,
    few_shot,
    train_dreamzero,
    train_small_dreamzero,
)

__all__ = [
    "DreamZeroRecipe",
    "LowRankLayers",
    "VideoOnly",
    "adapt_dreamzero",
    "few_shot",
    "released_recipe",
    "small_robot",
    "small_sizes",
    "train_dreamzero",
    "train_small_dreamzero",
]
