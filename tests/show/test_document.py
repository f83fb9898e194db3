"""One document, every renderer: nothing is lost, nothing is markup."""

from __future__ import annotations

import io

from rich.console import Console

from raybench.show.document import (
    Answer,
    Answers,
    Cell,
    Code,
    Document,
    Heading,
    Items,
    Paragraph,
    Section,
    Strip,
    Table,
    Terms,
    columns,
    row,
)
from raybench.show.page import render_page
from raybench.show.tables import to_latex, to_markdown
from raybench.show.terminal import print_in_order

ODD = "<b>a_b</b> [red] 50%"
TABLE = Table(
    "one",
    "A table",
    columns("name", "value", numbers=("value",)),
    (
        row(ODD, Cell("2.00", "2.0"), group="first", strip=Strip(2.0, 1.8, 2.2, 1.7, 2.3, "helps")),
        row("c", "", group="second"),
    ),
    note="what the rows have in common",
    margin=0.03,
)
DOCUMENT = Document(
    ODD,
    (
        Answers(
            (Answer(ODD, "helps", "helps: it is fast", "by setting: 1 helps", "2.000", "1.8 to 2.2"),), 0.03, "ddp"
        ),
        Paragraph("said beside it", lead="Note:"),
    ),
    (
        Section(
            "all",
            "Everything",
            (
                TABLE,
                Items("A list", ("first item", "second item", "third item"), most=2),
                Terms("Terms", (("a term", "what it means"),)),
                Code("To copy", "python -m raybench.plan"),
                Heading("A heading"),
            ),
        ),
    ),
)
SAID = (
    "helps: it is fast", "by setting: 1 helps", "said beside it", "what the rows have in common", "first item",
    "second item", "a term", "what it means", "python -m raybench.plan", "A heading", "2.00",
)  # fmt: skip


def test_every_renderer_says_everything() -> None:
    text = io.StringIO()
    print_in_order(DOCUMENT, Console(file=text, width=120))
    for name, rendered in {
        "terminal": text.getvalue(),
        "page": render_page(DOCUMENT, {}),
        "markdown": to_markdown(DOCUMENT),
    }.items():
        assert [said for said in SAID if said not in rendered] == [], name


def test_names_are_text_in_every_renderer() -> None:
    text = io.StringIO()
    print_in_order(DOCUMENT, Console(file=text, width=120))
    assert ODD in text.getvalue()
    page = render_page(DOCUMENT, {})
    assert "<b>a_b" not in page
    assert "&lt;b&gt;a_b&lt;/b&gt; [red] 50%" in page
    assert "<b>" not in to_markdown(DOCUMENT)
    assert r"\textless{}b\textgreater{}a\_b" in to_latex(TABLE)


def test_lists_are_cut_and_say_so() -> None:
    text = io.StringIO()
    print_in_order(DOCUMENT, Console(file=text, width=120))
    assert "... and 1 more" in text.getvalue()
    assert "third item" not in text.getvalue()
    assert "1 more</summary>" in render_page(DOCUMENT, {})
    assert "- ... and 2 more in the page" in to_markdown(DOCUMENT, most=1)
