"""The worker side: what runs in the processes of a training group. Only this package imports torch.

Nothing here knows Ray: `worker.run_legs` takes an existing process group, so the same legs run in a Ray Train worker,
under `torchrun -m raybench.training PLAN`, and in a test.
"""
