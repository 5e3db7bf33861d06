"""Owns what is set under our prefix and is no setting: which of it is told of, and what may be meant. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from gateway.settings import PREFIX, SERVICE_LINK, Settings, variable_of

# They stand in docker/.env beside the settings, and are for docker/compose.yaml alone.
_OF_COMPOSE = frozenset({"GATEWAY_VERSION", "GATEWAY_MEMORY", "GATEWAY_CPUS", "GATEWAY_STOP_GRACE"})
# Kubernetes tells every pod of the services beside it; one may be called gateway, or gateway-something.
_OF_KUBERNETES = re.compile(r"GATEWAY_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)")
_NEAR = 0.7


def misspelled(given: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """The names among those of `given` variables, each with the setting that may be meant, if one is near."""
    settings = {variable_of(name).removeprefix(PREFIX): variable_of(name) for name in Settings.model_fields}
    known = {*settings.values(), *_OF_COMPOSE}
    for name, value in sorted(given.items()):
        # Settings are read whatever their case.
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known:
            continue
        if _OF_KUBERNETES.fullmatch(upper) or SERVICE_LINK.match(value):
            continue
        near = difflib.get_close_matches(upper.removeprefix(PREFIX), settings, n=1, cutoff=_NEAR)
        yield name, settings[near[0]] if near else None
