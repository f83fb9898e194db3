"""Telemetry of a leg's window, read in a process of its own on every node: `python -m raybench.telemetry`.

The trial's interpreters are never interrupted for it: a rank starts this process, says where a window begins and ends,
and asks for the reading afterwards (`raybench.training.node.sampling`). Nothing here imports torch, ray or numpy, and
nothing here ends a leg: an instrument that is not there is null in the reading, and named in its `missing`.
"""
