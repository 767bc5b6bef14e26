"""True statistics per feature: minimum, maximum, mean, standard deviation, quantiles, count.

Vectors are described over every frame. Images are described per colour channel, scaled to [0, 1], from exact
256-bin histograms, so that two recordings add up without looking at a pixel again.
"""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
LARGE_SIDE = 160  # pixels; of larger images every n-th row and column is counted

Stats = dict[str, Any]  # min, max, mean, std, count, q01 ... q99, as LeRobot's stats.json has them


def vector_stats(values: np.ndarray) -> Stats:
    """Statistics of `(frames, dims)` per component; quantiles interpolate between neighbouring values."""
    rows = values.astype(np.float64)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": rows.mean(axis=0).tolist(),
        "std": rows.std(axis=0).tolist(),
        "count": [len(values)],
        **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
    }


def image_histogram(frames: UInt8[np.ndarray, "time height width 3"]) -> Int[np.ndarray, "3 256"]:
    """How often each channel takes each value; large images are thinned to about 160 pixels a side."""
    stride = max(1, min(frames.shape[1:3]) // LARGE_SIDE)
    thin = frames[:, ::stride, ::stride]
    return np.stack([np.bincount(thin[..., channel].ravel(), minlength=256) for channel in range(3)])


def image_stats(histogram: Int[np.ndarray, "3 256"], frames: int) -> Stats:
    """Statistics of a channel histogram over `frames` images, nested `[3][1][1]` as LeRobot has them."""
    values = np.arange(256) / 255.0
    share = histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)
    below = np.cumsum(share, axis=1)
    mean = share @ values
    seen = histogram > 0

    def nested(row: np.ndarray) -> list[list[list[float]]]:
        return [[[float(value)]] for value in row]

    return {
        "min": nested(values[seen.argmax(axis=1)]),
        "max": nested(values[255 - seen[:, ::-1].argmax(axis=1)]),
        "mean": nested(mean),
        "std": nested(np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0))),
        "count": [frames],
        **{name: nested(values[(below >= q - 1e-12).argmax(axis=1)]) for name, q in QUANTILES.items()},
    }
