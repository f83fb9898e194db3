"""The machines: joining a Ray cluster, what its nodes have, which trial may start where."""
