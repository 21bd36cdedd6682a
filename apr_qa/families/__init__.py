"""Families of models: what all their members have in common, read from ``families/*.yaml``."""
