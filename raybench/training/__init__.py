"""The worker side: what runs inside a process of a training group. Only here is torch imported.

Nothing here knows Ray: `worker.run_legs` takes a process group that exists already, so the same legs run in
a Ray Train worker, under `torchrun -m raybench.training PLAN`, and in a test.
"""
