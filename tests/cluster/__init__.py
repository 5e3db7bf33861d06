"""The essentials on PostgreSQL and Redis under two workers, in `make test`: the very tests of `faults`, on another rig.

All of `faults` and `clients` run so in `make drills`, by `TEST_RIG=cluster`.
"""
