"""Mutated model files by the thousand, and the rules of each format written down a second time.

``python -m fuzzing.campaign --cases 100000`` from this folder's parent runs a long one.
"""
