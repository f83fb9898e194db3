"""A device's peak rates by its maker's datasheet: dense matrix products without sparsity, in TFLOP/s.

`fp32` is the rate of the ordinary cores, the others of the tensor cores. Names are the driver's. A device that is not
here has no datasheet number, and a measured one is used instead (`raybench.training.node.peak`).
"""

from __future__ import annotations

import re
from typing import Final

# Sources: NVIDIA's datasheets; numbers given "with sparsity" there are halved. B200: an eighth of HGX B200's.
_DATASHEETS: Final[tuple[tuple[str, dict[str, float]], ...]] = (
    (r"V100-SXM\d.*", {"fp32": 15.7, "fp16": 125.0}),
    (r"V100-PCIE.*", {"fp32": 14.0, "fp16": 112.0}),
    (r"T4", {"fp32": 8.1, "fp16": 65.0}),
    (r"A10", {"fp32": 31.2, "tf32": 62.5, "bf16": 125.0, "fp16": 125.0}),
    (r"A100([- ].*)?", {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "fp16": 312.0}),
    (r"L4", {"fp32": 30.3, "tf32": 60.0, "bf16": 121.0, "fp16": 121.0}),
    (r"L40S", {"fp32": 91.6, "tf32": 183.0, "bf16": 362.0, "fp16": 362.0}),
    (r"H100 (80GB|64GB)? ?HBM\d?", {"fp32": 67.0, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5}),
    (r"H100 PCIe", {"fp32": 51.0, "tf32": 378.0, "bf16": 756.5, "fp16": 756.5}),
    (r"H100 NVL", {"fp32": 60.0, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5}),
    (r"H200", {"fp32": 67.0, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5}),
    (r"H200 NVL", {"fp32": 60.0, "tf32": 418.0, "bf16": 835.5, "fp16": 835.5}),
    (r"B200", {"fp32": 75.0, "tf32": 1125.0, "bf16": 2250.0, "fp16": 2250.0}),
)


def datasheet_tflops(gpu: str, precision: str) -> float | None:
    """The peak of one GPU, named as its driver does, at a setting's precision; None where no datasheet is known."""
    name = re.sub(r"^(NVIDIA|Tesla|NVIDIA Tesla)\s+", "", gpu)
    for pattern, peaks in _DATASHEETS:
        if re.fullmatch(pattern, name):
            return peaks.get(precision)
    return None
