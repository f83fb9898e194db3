"""Colours: text on paper has a contrast of 4.5:1, and verdicts are told apart, also by the colour-blind."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from raybench.show.figures.speedups import MAP_COLOURS, ink_on
from raybench.show.figures.style import COLOURS, DARK, VERDICT_STYLE, arm_style, is_hollow

# Machado, Oliveira and Fernandes 2009, severity 1, on linear light.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ @ np.ones(3)
PAPERS = {"light": (COLOURS, "#ffffff"), "dark": (DARK, "#14171a")}


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB under D65 of linear light."""
    scaled = TO_XYZ @ np.clip(light, 0, 1) / WHITE
    f = np.where(scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    low, high = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("vision", VISION)
def test_verdicts_are_told_apart(paper: str, vision: str) -> None:
    colours, _ = PAPERS[paper]
    seen = {verdict: lab(VISION[vision] @ linear(colours[name])) for verdict, (name, _) in VERDICT_STYLE.items()}
    differences = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(seen, 2)}
    assert min(differences.values()) >= 15, min(differences, key=lambda pair: differences[pair])


@pytest.mark.parametrize("paper", PAPERS)
def test_text_can_be_read(paper: str) -> None:
    colours, background = PAPERS[paper]
    for name in ("ink", "quiet", "link", *(name for name, _ in VERDICT_STYLE.values())):
        assert contrast(colours[name], background) >= 4.5, name


def test_numbers_of_a_heat_map_can_be_read() -> None:
    for place in np.linspace(0, 1, 201):
        face = MAP_COLOURS(place)
        assert contrast(to_hex(face), to_hex(ink_on(face))) >= 4.5, place


def test_undecided_is_grey_and_hollow() -> None:
    for colours, _ in PAPERS.values():
        _, a, b = lab(linear(colours["undecided"]))
        assert np.hypot(a, b) < 8
    assert is_hollow("undecided")
    assert not is_hollow("hurts")


def test_every_arm_has_a_look_of_its_own() -> None:
    arms = [f"arm{number}" for number in range(60)]
    looks = {arm_style(arm, arms, "ddp")[:2] for arm in [*arms, "ddp"]}
    assert len(looks) == 61
