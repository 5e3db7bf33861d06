"""Owns what pytest has to know before it looks into a folder: how a notebook becomes a test."""

pytest_plugins = ["tests.notebooks.plugin"]
