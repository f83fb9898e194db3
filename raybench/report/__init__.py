"""From an analysis to a page, figures and a summary: `write_report(analysis, paths, folder)`.

Figures are pure functions from an Analysis (and the steps of a few legs) to a matplotlib Figure; the page is one
Jinja2 template. No ray, torch or mlflow, here or in anything this imports. The same ledger gives the same bytes.
"""

from raybench.report.writing import write_report

__all__ = ["write_report"]
