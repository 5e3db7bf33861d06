"""What real clients need of the wire, against a running gateway."""
