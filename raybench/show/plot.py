"""A plot: a figure with its words, as figures are drawn and documents hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a telephone draws a figure at about this size, so that its text is readable without scrolling.
WIDTH: Final = 5.0


@dataclass(frozen=True)
class Plot:
    """A figure, what to see in it and how it was computed; its files are named `name`."""

    name: str
    title: str
    section: str  # `found`, `why` or `sure`
    figure: Figure
    caption: str
    tips: Mapping[str, str] = field(default_factory=dict)  # text shown when hovering over an artist, by its gid

    @property
    def is_wide(self) -> bool:
        """Whether a telephone's page must scroll to make its text readable."""
        return bool(self.figure.get_figwidth() > WIDTH)
