"""The network between ranks: the interface by which a host is reached, and the all-reduce against its definition."""

from __future__ import annotations

import socket
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from raybench.training.node.network import interface_of_this_node, interface_with, measured_network
from raybench.training.ranks import Ranks


def loopback() -> str:
    return next(name for name, found in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in found))


def test_the_interface_is_that_of_the_route_or_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    found = interface_of_this_node("gloo")
    assert (found.interface, found.address, found.chosen_by) == (loopback(), "127.0.0.1", "route")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth77")
    found = interface_of_this_node("gloo")
    assert (found.interface, found.chosen_by) == ("eth77", "GLOO_SOCKET_IFNAME")
    assert found.megabits_per_second is None
    assert interface_of_this_node("nccl").chosen_by == "route"
    assert interface_with("203.0.113.7") is None


def test_bandwidths_are_those_of_nccl_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = dist.TCPStore("127.0.0.1", port, 1, is_master=True)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        ranks = Ranks.joined(torch.device("cpu"), 60)
        network = measured_network(ranks)
        as_of_four = measured_network(OfFour(0, 4, torch.device("cpu"), ranks.control))
    finally:
        dist.destroy_process_group()
    assert (network.backend, network.world) == ("gloo", 1)
    assert [size.bytes for size in network.all_reduce] == [2**20, 2**25]
    for size in network.all_reduce:
        assert size.algbw == pytest.approx(size.bytes / size.seconds)
        assert size.busbw == 0.0  # a rank alone sends nothing
        assert 3 <= size.calls <= 20
    for size in as_of_four.all_reduce:
        assert size.busbw == pytest.approx(1.5 * size.algbw)


class OfFour(Ranks):
    """The first of four ranks, as far as the arithmetic goes."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.world
