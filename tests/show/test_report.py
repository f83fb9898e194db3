"""The report: what is in it, what is not, that names stay text, and that the same ledger gives the same bytes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from raybench.__main__ import main as raybench
from raybench.analysis import analyse
from raybench.errors import UserError
from raybench.report import main
from raybench.show.answer import build
from raybench.show.document import Answer, Answers, Document, Section, Table, columns, row
from raybench.show.figures.series import read_steps
from raybench.show.figures.speedups import heat_map
from raybench.show.figures.style import COLOURS, add_note, drawing, settle, two_lines
from raybench.show.page import MOST_ANSWERS, MOST_ROWS, render_page
from raybench.show.report_files import draw_all, write_report
from raybench.show.units import cost
from raybench.show.words import arm_answers
from tests.analysis.ledgers import leg, paired, write
from tests.analysis.simulation import Truth, simulate_ledger
from tests.conftest import Commands
from tests.show.ledgers import ODD

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page's elements and text; complains of an element that is closed twice or not at all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


ALL = {
    "arms", "forest", "distribution", "heat_map", "profile", "phases", "memory_and_speed", "ladder", "scaling",
    "traces", "order_and_drift", "failures", "learning",
}  # fmt: skip


def test_everything_that_the_ledger_has_data_for_is_drawn_and_filed_in_three_formats(written: Path) -> None:
    files = {path.name for path in (written / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in ALL for kind in ("svg", "png", "pdf")}
    assert (written / "figures" / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert (written / "figures" / "forest.pdf").read_bytes().startswith(b"%PDF")
    for path in (written / "figures").glob("*.svg"):
        assert "background" in ElementTree.parse(path).getroot().attrib["style"]  # for readers of a dark page


def test_the_page_answers_first_and_holds_all_there_is_to_tell(ledger: Path, page: Page) -> None:
    analysis = analyse([ledger])
    text = " ".join(page.text.replace("\u00a0", " ").split())
    sentences = [f"{one.summary.arm} {one.sentence}" for one in arm_answers(analysis)]
    parts = [*sentences, "What was found", "Why", "How sure", "How to repeat it"]
    places = [text.index(part, text.index(sentences[0])) for part in parts]
    assert places == sorted(places)
    for c in analysis.comparisons:
        assert c.speedup.value is None or f"{c.speedup.value:.3f}" in text
        assert all(cost(seconds, "step") in text for seconds in (c.baseline.seconds, c.treated.seconds))
        assert all(" ".join(one.text.split()) in text for one in c.caveats)
    for told in ("<b>no</b> room", "out_of_memory", "H100", '"stage": 3', "python -m raybench.report", "margin=0.03"):
        assert told in text
    assert sum(tag == "figcaption" for tag, _ in page.elements) == len(ALL - {"arms"})  # the answer draws its own


def test_names_stay_text(written: Path, page: Page) -> None:
    html = (written / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert html.count("<script>") == 1
    assert ODD in page.text
    summary = (written / "summary.md").read_text(encoding="utf-8")
    assert "<script>" not in summary
    assert "&lt;script>alert" in summary


def test_the_page_needs_no_network_and_is_small(written: Path, page: Page) -> None:
    html = (written / "report.html").read_text(encoding="utf-8")
    assert len(html) < 3_000_000
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), f"<{tag} {name}={target}>"
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_every_colour_of_a_figure_follows_the_theme(written: Path) -> None:
    drawings = (written / "report.html").read_text(encoding="utf-8").partition("<body>")[2]
    assert "<pattern" in drawings
    assert [name for name, value in COLOURS.items() if value in drawings] == []


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a.get("href") or a.get("xlink:href") or "")[1:] for _, a in page.elements} - {"", "ata:,"}
    assert targets <= set(ids)


def test_figures_and_tables_have_names_for_a_screen_reader(page: Page) -> None:
    for tag, attributes in page.elements:
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if "tabindex" in attributes:
            assert attributes["role"] == "region"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
    assert ("html", {"lang": "en"}) in page.elements


def test_the_same_ledger_gives_the_same_bytes_wherever_it_lies(ledger: Path, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ledger, tmp_path / "elsewhere" / "friday")
    files = write_report(analyse([copy], ladder=("ddp", "zero1", "zero3")), [copy], tmp_path / "out")
    assert len(files) == len([path for path in written.rglob("*") if path.is_file()])
    for path in files:
        assert path.read_bytes() == (written / path.relative_to(tmp_path / "out")).read_bytes(), path.name


def test_only_what_the_ledger_has_data_for_is_drawn(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", paired([1.1, 1.12, 1.09]))
    analysis = analyse([path])
    assert {plot.name for plot in draw_all(analysis, read_steps([path], analysis))} == {
        "forest", "traces", "order_and_drift",
    }  # fmt: skip


def test_a_ledger_of_failures_alone_makes_a_page(tmp_path: Path) -> None:
    rows = [leg(arm, trial, failure_kind="crashed") for arm in ("ddp", "zero1") for trial in range(2)]
    path = write(tmp_path / "legs.parquet", rows)
    assert main([str(path)]) == 0
    page = Page((tmp_path / "_report" / "report.html").read_text(encoding="utf-8"))
    assert "both failed" in page.text
    assert [a["id"] for tag, a in page.elements if tag == "figure"] == ["failures"]


def test_a_baseline_alone_and_one_trial_make_a_page(tmp_path: Path) -> None:
    for name, rows in (("alone", [leg("ddp", 0)]), ("one", paired([1.2]))):
        path = write(tmp_path / name / "legs.parquet", rows)
        assert main([str(path)]) == 0


def test_names_of_any_length_and_script_and_speedups_of_any_size_make_a_page(tmp_path: Path) -> None:
    name = "很长的名字" * 20 + "x" * 200
    rows = [row for i in range(2) for row in paired([1e-3, 1e3, 1.0], arm=name, setting_id=f"s{i}", setting=name)]
    path = write(tmp_path / "legs.parquet", [row | {"family": name} for row in rows])
    assert main([str(path)]) == 0
    assert name in Page((tmp_path / "_report" / "report.html").read_text(encoding="utf-8")).text


def test_a_name_beside_an_axis_breaks_after_a_comma() -> None:
    assert two_lines("torchvision/vgg16, batch 8") == "torchvision/vgg16,\nbatch 8"
    assert two_lines("resnet18, batch 8") == "resnet18, batch 8"
    assert two_lines("swin_tiny_patch4_window7_224, batch 8") == "swin_tiny_patch4_window7\n_224, batch 8"


def test_cells_of_a_heat_map_have_room_for_two_lines_below_long_names(tmp_path: Path) -> None:
    speedups = {"ddp": 1.0} | {f"zero3_with_bucket_{number}": 0.9 for number in range(10)}
    path = simulate_ledger(tmp_path / "legs.parquet", Truth(speedups, num_settings=3, num_trials=3, num_steps=4))
    with drawing():
        plot = heat_map(analyse([path]))
        assert plot is not None
        settle(plot.figure)
    (axes,) = plot.figure.axes
    cell = axes.get_position().height * plot.figure.get_figheight() / 3
    assert cell > 2 * 8.5 * 1.2 / 72  # inches: two lines of its text


def test_settings_of_one_name_stay_apart(tmp_path: Path) -> None:
    phases = {f"{phase}_seconds": [0.1] * 3 for phase in ("data", "forward", "backward", "optimizer")}
    rows = [row for i in range(2) for row in paired([1.1], setting_id=f"s{i}", setting="net", base=i + 1.0, **phases)]
    path = write(tmp_path / "legs.parquet", rows)
    steps = read_steps([path], analyse([path]))
    assert [(one.setting_id, one.arm, one.step) for one in steps.phases] == [
        ("s0", "ddp", [1.0]), ("s0", "zero1", [1.0 / 1.1]), ("s1", "ddp", [2.0]), ("s1", "zero1", [2.0 / 1.1]),
    ]  # fmt: skip


def test_a_large_sweep_keeps_the_page_small(tmp_path: Path) -> None:
    truth = Truth(speedups={"ddp": 1.0, "zero1": 0.98, "zero3": 0.7}, num_settings=210, num_trials=3, num_steps=4)
    path = simulate_ledger(tmp_path / "legs.parquet", truth)
    assert main([str(path), f"out={tmp_path / 'out'}"]) == 0
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(html) < 3_000_000
    assert html.count("7 more rows: sorting and the search above take them in") == 3
    with (tmp_path / "out" / "comparisons.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 421


def test_long_tables_are_folded_and_the_fold_says_how_many_rows() -> None:
    short, long = (tuple(row(f"s{i}", "1 s") for i in range(number)) for number in (MOST_ROWS, MOST_ROWS + 1))
    tables = [Table(name, name, columns("setting", "time"), rows) for name, rows in (("short", short), ("long", long))]
    html = render_page(Document("Folds", (), (Section("costs", "Costs", tuple(tables)),)), {})
    assert re.findall(r"<details[^>]*><summary>([^<]*)", html) == [f"{MOST_ROWS + 1} rows"]


def test_arms_that_are_folded_are_counted_by_verdict() -> None:
    verdicts = ["hurts"] * MOST_ANSWERS + ["undecided", "hurts", "hurts"]
    answers = tuple(Answer(f"arm{i}", verdict, verdict) for i, verdict in enumerate(verdicts))
    html = render_page(Document("Arms", (Answers(answers, 0.03, "ddp"),)), {})
    assert '3 more arms <span class="quiet">2 hurts, 1 undecided</span>' in html


def test_the_command_line(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = str(write(tmp_path / "legs.parquet", paired([1.1, 1.12, 1.09])))
    wrong = commands.run("report", ledger, "margn=0.1")
    assert wrong.returncode == 2
    assert wrong.stderr == "raybench: unknown key margn=; did you mean margin?\n"
    assert raybench(["report", ledger, f"out={tmp_path / 'out'}", "margin=0.5"]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    assert "no effect" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written there"):
        main([ledger, f"out={tmp_path / 'file'}"])


def test_importing_the_report_pulls_in_nothing_heavy() -> None:
    import subprocess
    import sys

    from tests.conftest import command_environment

    script = "import sys, raybench.report; print(*{'ray', 'torch', 'mlflow', 'deepspeed'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                          env=command_environment())  # fmt: skip
    assert done.stdout.split() == []


def test_every_table_and_figure_says_what_arms_are_declared_to_differ_in(tmp_path: Path) -> None:
    rows = paired([0.8, 0.82, 0.79, 0.81], differs=["batch_size", "precision"])
    ledger = str(write(tmp_path / "led" / "legs.parquet", rows).parent)
    assert raybench(["report", ledger]) == 0
    page = (tmp_path / "led/_report/report.html").read_text(encoding="utf-8")
    note = "rms also differ in batch_size, precision, as the space declares"
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert captions
    assert all(note in text for text in captions)
    assert note in re.findall(r'id="table-comparisons".*?<p class="note">(.*?)</p>', page, re.DOTALL)[0]
    assert "arms also differ in batch" in (tmp_path / "led/_report/summary.md").read_text(encoding="utf-8")


def test_a_note_in_a_figure_lies_below_all_and_nothing_moves_over_a_legend(ledger: Path) -> None:
    analysis = analyse([ledger])
    with drawing():
        plots = [plot for plot in draw_all(analysis, read_steps([ledger], analysis)) if plot.figure.legends]
        for plot in plots:
            add_note(plot.figure, "arms also differ in batch_size, optimizer, schedule, precision, loss_scale." * 2)
            (*_, note) = (text.get_window_extent() for text in plot.figure.texts)
            legends = [one.get_window_extent() for one in plot.figure.legends]
            axes = [box for one in plot.figure.axes if (box := one.get_tightbbox()) is not None]
            assert note.ymin >= 0
            assert note.ymax <= min(box.ymin for box in [*legends, *axes]), plot.name
            assert not any(one.overlaps(other) for one in legends for other in axes), plot.name
    assert len(plots) > 4


def test_arms_link_to_their_comparison_in_mlflow(ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "friday"
    shutil.copytree(ledger, copy)
    runs = {"a": {"ddp": "11", "zero1": "22"}}
    links = {"tracking_uri": "http://tracking:5000", "experiment_id": "7", "sweep_run": "33", "arm_runs": runs}
    (copy / "_mlflow.json").write_text(json.dumps(links))
    analysis = analyse([copy])
    page = render_page(build(analysis, [copy]), {})
    compare = "http://tracking:5000/#/compare-runs?runs=%5B%2211%22%2C%2222%22%5D&amp;experiments=%5B%227%22%5D"
    assert page.count("compare-runs") == page.count(f'<a href="{compare}"') == 1
    assert '<a href="http://tracking:5000/#/experiments/7/runs/33">friday</a>' in page
    assert "Start mlflow ui" not in page
    for bad in ("[]", "{", json.dumps({**links, "arm_runs": 3}), json.dumps({**links, "tracking_uri": None})):
        (copy / "_mlflow.json").write_text(bad)
        assert "compare-runs" not in render_page(build(analysis, [copy]), {})
    (copy / "_mlflow.json").write_text(json.dumps({**links, "tracking_uri": "javascript://x"}))
    page = render_page(build(analysis, [copy]), {})
    assert "javascript:" not in page
    assert "mlflow ui" in page
