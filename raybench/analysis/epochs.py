"""Time to accuracy: seconds of training until the first epoch whose evaluation reaches the protocol's target."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raybench.analysis.inference import Floats


def time_to_accuracy(
    seconds: pa.ListArray, accuracy: pa.ListArray, target: Floats, final_accuracy: Floats, train_seconds: Floats
) -> Floats:
    """Seconds of training to the target, by leg, (legs,); infinity where it was not reached, nan where unknown.

    `seconds` and `accuracy` hold one value an epoch, training alone and evaluation after it; evaluation is not
    counted. A leg without these lists is judged by its final accuracy and all of its training: an upper bound.
    `target` is nan where the leg's protocol names none.
    """
    reached = np.where(final_accuracy >= target, train_seconds, np.inf)
    result = np.where(np.isfinite(target) & np.isfinite(final_accuracy), reached, np.nan)
    lengths = [np.diff(lists.offsets.to_numpy()) for lists in (seconds, accuracy)]
    valid = seconds.is_valid().to_numpy(zero_copy_only=False) & accuracy.is_valid().to_numpy(zero_copy_only=False)
    told = valid & (lengths[0] == lengths[1]) & (lengths[0] > 0) & np.isfinite(target)
    if not told.any():
        return result
    values = [lists.values.to_numpy(zero_copy_only=False) for lists in (seconds, accuracy)]
    starts = [lists.offsets.to_numpy()[:-1].astype(np.int64) for lists in (seconds, accuracy)]
    elapsed = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values[0]))])
    result[told] = np.inf
    for epoch in range(int(lengths[0][told].max())):
        rows = np.flatnonzero(told & (lengths[0] > epoch) & np.isinf(result))
        hit = rows[values[1][starts[1][rows] + epoch] >= target[rows]]
        result[hit] = elapsed[starts[0][hit] + epoch + 1] - elapsed[starts[0][hit]]
    return result
