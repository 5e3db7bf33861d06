"""The operators' desk, on real databases of both kinds."""
