"""Derived models against what they promise to have kept or gained: on real tensors, files, logs and behaviour."""
