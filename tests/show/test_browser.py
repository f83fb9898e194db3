"""The page in a real browser, as wide as a phone, a tablet and a desk: no error, nothing cut off, tables that sort."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raybench.show.document import Document, Section, Table, columns, row
from raybench.show.page import render_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
    "--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1400,1000", "--dump-dom",
)  # fmt: skip
# The page in two frames; what a reader would do with it, written down where --dump-dom shows it.
FRAMES = """<body><pre id="seen"></pre><script>
const seen = {};
function look(frame, width) {
  const page = frame.contentDocument;
  const table = [...page.querySelectorAll("#table-comparisons table.sortable")].find(
    (one) => [...one.tBodies[0].rows].some((row) => row.cells[3].textContent === ""));
  const head = table.querySelectorAll("th button")[3];
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[3].textContent);
  const overflow = page.documentElement.scrollWidth - frame.contentWindow.innerWidth;
  head.focus();
  const focused = page.activeElement === head;
  head.click(); const up = column();
  head.click(); const down = column();
  const order = head.closest("th").getAttribute("aria-sort");
  const clipped = [...page.querySelectorAll("td, th, p, li, pre, svg, dd, summary")]
    .filter((e) => e.getBoundingClientRect().right > frame.contentWindow.innerWidth + 1)
    .map((e) => e.outerHTML.slice(0, 90));
  const drawn = [...page.querySelectorAll("figure svg")].map((e) => e.getBoundingClientRect().height);
  const texts = [...page.querySelectorAll("figure svg")].flatMap((svg) => {
    const found = [...svg.querySelectorAll("text")].filter((e) => e.textContent.trim()).map((e) => {
      const matrix = e.getScreenCTM(), size = parseFloat(page.defaultView.getComputedStyle(e).fontSize);
      return [e.textContent, e.getBoundingClientRect(), size * Math.hypot(matrix.a, matrix.b)];
    });
    const name = svg.closest("figure").id, frame = svg.getBoundingClientRect();
    const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
    return [
      ...found.filter(([, , size]) => size < 8).map(([text, , size]) => `${name}: '${text}' is of ${size} px`),
      ...found.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1)
        .map(([text]) => `${name}: '${text}' is cut off`),
      ...found.flatMap(([text, box], place) => found.slice(place + 1).filter(([, other]) => over(box, other))
        .map(([other]) => `${name}: '${text}' over '${other}'`)),
    ];
  });
  const filter = page.querySelector(".filter input");
  let shown = -1;
  if (filter) {
    filter.value = "zero3 vit";
    filter.dispatchEvent(new Event("input"));
    shown = [...page.querySelectorAll("#table-comparisons tbody tr")].filter((row) => !row.hidden).length;
  }
  seen[width] = { overflow, focused, up, down, order, clipped, drawn, texts, shown };
  document.getElementById("seen").textContent = JSON.stringify(seen);
}
for (const width of [390, 900, 1280]) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => look(frame, width);
  frame.src = "report.html";
  document.body.append(frame);
}
</script>"""


@pytest.fixture(scope="module")
def opened(written: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What was seen at both widths, and what the browser wrote about it."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("browser")
    shutil.copy(written / "report.html", folder)
    (folder / "frames.html").write_text(FRAMES, encoding="utf-8")
    profile = tmp_path_factory.mktemp("profile")
    done = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={profile}", (folder / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[:2000]
    seen: dict[str, Any] = json.loads(found.group(1))
    return seen, done.stderr


def test_it_opens_without_a_word_on_the_console(opened: tuple[dict[str, Any], str]) -> None:
    seen, log = opened
    assert set(seen) == {"390", "900", "1280"}
    assert [line for line in log.splitlines() if ":CONSOLE" in line] == []


@pytest.mark.parametrize("width", ["390", "900", "1280"])
def test_nothing_is_cut_off_and_the_filter_leaves_what_was_asked_for(
    opened: tuple[dict[str, Any], str], width: str
) -> None:
    seen = opened[0][width]
    assert seen["overflow"] <= 0
    assert seen["clipped"] == []
    assert seen["texts"] == []
    assert seen["shown"] == 1
    assert len(seen["drawn"]) == 12
    assert min(seen["drawn"]) > 50


@pytest.mark.parametrize("width", ["390", "900", "1280"])
def test_a_head_sorts_its_column_and_says_so(opened: tuple[dict[str, Any], str], width: str) -> None:
    seen = opened[0][width]
    numbers = sorted(float(text) for text in seen["up"] if text)
    assert seen["focused"]
    assert [float(text) for text in seen["up"] if text] == numbers
    assert [float(text) for text in seen["down"] if text] == numbers[::-1]
    assert seen["up"][-1] == seen["down"][-1] == ""  # a missing number is last either way
    assert seen["order"] == "descending"


SEARCH = """
const told = document.querySelector(".filter [aria-live]"), input = document.querySelector(".filter input");
const folds = () => [...document.querySelectorAll("details")].map((one) => !one.hidden && one.open);
const shown = () => [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
const type = (text) => {
  input.value = text;
  input.dispatchEvent(new Event("input"));
  return [told.textContent, shown().length, shown().at(-1).cells[0].textContent];
};
const seen = [shown().length, type("setting-1199"), folds(), type("odd zero1"), type("")[1], folds()];
const head = document.querySelector("#table-comparisons th button");
head.click(); head.click();
seen.push(shown()[0].cells[0].textContent, shown().length);
document.body.innerHTML = `<pre id="seen">${JSON.stringify(seen)}</pre>`;
"""


def test_search_and_sorting_take_in_rows_that_do_not_stand_in_the_page(tmp_path: Path) -> None:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    rows = tuple(row(f"setting-{i}", "zero1", group="odd" if i % 2 else "even") for i in range(1200))
    table = Table("comparisons", "All", columns("setting", "arm"), rows, filters=True)
    html = render_page(Document("Many", (), (Section("found", "Found", (table,)),)), {})
    page = tmp_path / "many.html"
    page.write_text(html.replace("</script>\n</body>", f"{SEARCH}</script>\n</body>"), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    odd = ["600 of 1,200 rows", 600, "setting-1199"]
    searched = [400, ["1 of 1,200 rows", 1, "setting-1199"], [False, True], odd, 400, [False, False]]
    assert json.loads(found.group(1)) == [*searched, "setting-1198", 400]  # the last one of "even", which waited


def test_the_browser_is_checked_by_a_page_that_does_complain(tmp_path: Path) -> None:
    """The control: an error in a page is seen in the log that the first test reads."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    page = tmp_path / "bad.html"
    page.write_text("<script>missing()</script>", encoding="utf-8")
    done = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert ":CONSOLE" in done.stderr
