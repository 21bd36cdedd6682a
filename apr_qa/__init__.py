"""Decide whether a language-model artifact is fit to ship, by trying hard to prove that it is not.

The main job is one call: ``certify(model, tier)`` resolves a model to artifacts, plans scenarios, collects
evidence in isolated workers, judges it and publishes a certificate that ``verify`` can recompute from the stored
evidence alone.
"""

__version__ = "0.1.0"
