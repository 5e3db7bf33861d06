"""The benchmark behind `make bench`: the gateway beside a bare pass-through, on one machine, under the same load."""
