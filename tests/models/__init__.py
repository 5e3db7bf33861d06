"""The records and their rules, on real databases of both kinds."""
