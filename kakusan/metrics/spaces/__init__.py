"""Feature spaces: what pictures are compared in."""

from kakusan.metrics.spaces.base import NetworkSpace, Space, features, hash_of_network

__all__ = ["NetworkSpace", "Space", "features", "hash_of_network"]
