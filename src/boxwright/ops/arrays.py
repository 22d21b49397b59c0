"""Names of the array types that many rooms use; shapes and units stand where an array is described."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of whatever type
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Image = NDArray[np.uint8]  # (H, W, 3) BGR
Color = tuple[int, int, int]  # blue, green, red of 0..255
