"""The node that legs run on: its hardware, environment and network, the rates of its devices and links, the sampler."""
