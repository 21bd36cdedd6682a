"""Measurements of a loaded model that are more than one answer: speed, states, stability, parity, kernels."""
