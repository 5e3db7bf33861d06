"""The request path: HTTP in, a provider's answer out, every completion paid for. Operators' verbs live in `ops`."""
