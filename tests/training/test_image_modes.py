"""Images of more than 8 bits, of too many pixels, and with names that are no text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raybench.errors import BadData
from raybench.training.tasks.images import _read_image

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
EIGHT_BITS = (RAMP * 255).round()


def saved(path: Path, values: Any) -> str:
    Image.fromarray(values).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16 bits.png", (RAMP * 65535).astype(np.uint16)),
        ("16 bits.tif", (RAMP * 65535).astype(np.uint16)),
        ("32 bits.tif", (RAMP * 65535).astype(np.int32)),
        ("float.tif", RAMP.astype(np.float32)),
        ("float to 255.tif", (RAMP * 255).astype(np.float32)),
        ("8 bits.png", EIGHT_BITS.astype(np.uint8)),
    ],
)
def test_deep_images_are_scaled_not_clipped(tmp_path: Path, name: str, values: Any) -> None:
    image = _read_image(saved(tmp_path / name, values))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, dtype=float)[..., 0] - EIGHT_BITS).max() <= 1


@pytest.mark.parametrize("values", [RAMP * 1e6, RAMP - 0.5, np.full((8, 8), np.nan)])
def test_values_of_no_known_range_are_told_with_file_and_mode(tmp_path: Path, values: Any) -> None:
    with pytest.raises(BadData, match=r"odd\.tif has values from .* in mode F; scale them to 0 to 1"):
        _read_image(saved(tmp_path / "odd.tif", values.astype(np.float32)))


def test_an_image_beyond_pils_limit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.png", EIGHT_BITS.astype(np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # 64 are more, and PIL warns; twice as many are refused
    assert _read_image(path).size == (8, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadData, match=r"large\.png is larger than PIL takes .*; make it smaller"):
        _read_image(path)


def test_a_name_that_is_no_utf_8_is_read_and_can_be_told(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.png", EIGHT_BITS.astype(np.uint8))
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")
    os.rename(good, path)
    assert _read_image(path).size == (8, 8)
    Path(path).write_bytes(b"no image")
    with pytest.raises(BadData) as refusal:
        _read_image(path)
    assert str(refusal.value).encode("utf-8").isascii()
    assert "\\xff\\xfe.png cannot be read as an image" in str(refusal.value)
