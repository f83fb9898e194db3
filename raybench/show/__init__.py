"""From an analysis, a plan, a calibration or a comparison of ledgers to what people read.

Builders (`answer`, `plan`, `calibration`, `changes`) make a `document.Document`; renderers (`terminal`, `page`,
`tables`) show any document. Numbers become text in `units` and nowhere else. No ray, torch or mlflow, here or in
anything this imports.
"""
