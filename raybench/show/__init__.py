"""Turns an analysis, a plan, a calibration or a comparison of ledgers into what people read.

Builders (`answer`, `plan`, `calibration`, `changes`) make a `document.Document`; renderers (`terminal`, `page`,
`tables`) show any document. Only `units` turns numbers into text. Neither this package nor its imports need ray, torch
or mlflow.
"""
