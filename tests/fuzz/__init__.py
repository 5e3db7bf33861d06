"""Hostile bodies, against a running gateway."""
