"""Tests of the dashboard: forms sent as a browser without scripts does (`visitor.py`), and a real browser (`browsers.py`)."""
