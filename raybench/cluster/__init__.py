"""The machines: joining a Ray cluster, describing its nodes, deciding which trial starts where."""
