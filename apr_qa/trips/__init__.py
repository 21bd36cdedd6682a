"""Journeys of a model through all formats and back: what must be equal at the end, whatever the way."""
