"""Data sets whose examples are images: their pixels on axes of their own, channels last."""

import numpy as np
from jaxtyping import Float

from ntkit.data._dataset import Dataset
from ntkit.errors import InputError

# More channels than this behind so few rows are rows: the channels stand first.
_CHANNELS = 4


def images(dataset: Dataset) -> tuple[Float[np.ndarray, "n h w c"], Float[np.ndarray, "m h w c"] | None]:
    """The inputs as images, (n, height, width, channels), and the test inputs alike; grey ones get one channel.

    **Raises:** `InputError` if the examples are no images, or have their channels first.
    """
    shape = image_shape(dataset.shape, dataset.source)
    x_test = dataset.x_test
    return dataset.x.reshape(-1, *shape), None if x_test is None else x_test.reshape(-1, *shape)


def image_shape(shape: tuple[int, ...], source: str) -> tuple[int, int, int]:
    """(height, width, channels) of examples of a shape. **Raises:** as `images`."""
    if len(shape) not in (2, 3):
        raise InputError(
            f"{source}: examples must be images, (height, width) or (height, width, channels), but have shape {shape}. "
            "Reshape them, such as `x.reshape(-1, 28, 28)`, and save them as an .npz file."
        )
    if len(shape) == 3 and shape[0] <= _CHANNELS < shape[2]:
        raise InputError(
            f"{source}: images must have their channels last, (height, width, channels), but examples have shape "
            f"{shape}, the channels first. Move them: `np.moveaxis(x, 1, -1)`."
        )
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
