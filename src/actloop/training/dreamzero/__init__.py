"""Training DreamZero on a robot's recordings, with video of others beside them; and bringing it to another robot.

    recordings, declaration --samples.py--> clips --batches.py--> clips of several robots, their noise
        --learner.py, ../loop.py--> trained tensors --run.py--> DreamZeroPolicy, one file
"""

from actloop.training.dreamzero.recipe import DreamZeroRecipe, LowRankLayers
#from actloop.training.dreamzero.run import VideoOnly, adapt_dreamzero, train_dreamzero

__all__ = ["DreamZeroRecipe", "LowRankLayers", "VideoOnly", "adapt_dreamzero", "train_dreamzero"]
