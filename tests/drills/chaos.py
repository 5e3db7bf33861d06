"""Owns a town to break: two servers of two workers on one PostgreSQL, one Redis and one provider, each behind a door of its
own; and the faults that can befall any part of it.

A fault begins, lasts for as long as it is told, and is over when its call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil

from tests.own_servers import OwnPostgres, own_postgres
from tests.proxy import Proxy
from tests.rig import Process, Rig, start_rig
from tests.servers import OwnRedis, own_redis
from tests.workers import Workers

Fault = Callable[[float], Awaitable[None]]


class Machine:
    """One `gateway serve` with two workers, on a port of its own that it keeps through its restarts."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.name = name
        self._rig = rig
        self._port = lasting_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Comes up even if it takes some tries: an operator's service manager would do the same."""
        for attempt in range(60):
            with contextlib.suppress(AssertionError):
                log = self._rig.folder / f"{self.name}.log"
                self.process = Process(["serve", "--port", str(self._port)], self._rig.environment, log)
                self.workers = Workers(self.process.popen.pid, self.url)
                return
            assert attempt < 59, f"{self.name} does not start: {log.read_text()[-2000:]}"

    async def kill_a_worker(self, chance: random.Random) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.workers.kill(chance.choice(self.workers.pids))

    async def freeze_a_worker(self, chance: random.Random, seconds: float) -> None:
        pid = chance.choice(self.workers.pids)
        with contextlib.suppress(psutil.NoSuchProcess):
            self.workers.freeze(pid)
            await asyncio.sleep(seconds)
            self.workers.thaw(pid)

    async def crash(self) -> None:
        """The main process is killed; another one is started as soon as its port is free."""
        await asyncio.to_thread(self.process.kill)
        await asyncio.to_thread(self.start)

    async def restart(self) -> None:
        """SIGTERM, and again."""
        await asyncio.to_thread(self.process.stop)
        await asyncio.to_thread(self.start)

    def stop(self) -> None:
        self.workers.thaw_all()
        self.process.stop()


def lasting_port() -> int:
    """A port that stays free between a server's lives: no outgoing connection is given one so low."""
    while True:
        port = random.randrange(12_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Town:
    def __init__(
        self, rig: Rig, postgres: OwnPostgres, redis: OwnRedis, doors: list[Proxy], chance: random.Random
    ) -> None:
        self.rig, self.postgres, self.redis, self.chance = rig, postgres, redis, chance
        self.database_door, self.redis_door, self.provider_door = doors
        self.machines: list[Machine] = []

    def open(self) -> None:
        """Start the servers, once there is everything that they are to know."""
        self.machines = [Machine(self.rig, name) for name in ("first", "second")]

    @property
    def faults(self) -> dict[str, list[tuple[str, Fault]]]:
        """By part: what can happen to it. One fault of a part at a time."""
        found: dict[str, list[tuple[str, Fault]]] = {
            "database": [
                ("cut off", self._door(self.database_door, self.database_door.cut)),
                ("unreachable", self._door(self.database_door, self.database_door.freeze)),
                ("speechless", self._door(self.database_door, self.database_door.freeze_answers)),
                ("reset", self._at_once(self.database_door.reset)),
                ("frozen", self._between(self.postgres.freeze, self.postgres.thaw)),
                ("crashed", self._between(self.postgres.stop, self.postgres.start)),
            ],
            "redis": [
                ("cut off", self._door(self.redis_door, self.redis_door.cut)),
                ("unreachable", self._door(self.redis_door, self.redis_door.freeze)),
                ("reset", self._at_once(self.redis_door.reset)),
                ("frozen", self._between(self.redis.freeze, self.redis.thaw)),
                ("killed, and empty afterwards", self._between(self.redis.close, self.redis.start)),
                ("flushed", self._at_once(self._flush)),
            ],
            "provider": [
                ("cut off", self._door(self.provider_door, self.provider_door.cut)),
                ("unreachable", self._door(self.provider_door, self.provider_door.freeze)),
                ("reset", self._at_once(self.provider_door.reset)),
            ],
        }
        for machine in self.machines:
            found[machine.name] = [
                ("worker killed", lambda _, m=machine: m.kill_a_worker(self.chance)),  # type: ignore[misc]
                ("worker frozen", lambda s, m=machine: m.freeze_a_worker(self.chance, s)),  # type: ignore[misc]
                ("main process killed", lambda _, m=machine: m.crash()),  # type: ignore[misc]
                ("restarted", lambda _, m=machine: m.restart()),  # type: ignore[misc]
            ]
        return found

    def lift(self) -> None:
        """Nothing is broken any more."""
        for door in (self.database_door, self.redis_door, self.provider_door):
            door.pass_on()
        for machine in self.machines:
            machine.workers.thaw_all()

    def _flush(self) -> None:
        with self.redis.client() as client:
            client.flushall()

    @staticmethod
    def _at_once(act: Callable[[], None]) -> Fault:
        async def fault(_: float) -> None:
            await asyncio.to_thread(act)

        return fault

    @staticmethod
    def _between(begin: Callable[[], None], end: Callable[[], None]) -> Fault:
        async def fault(seconds: float) -> None:
            await asyncio.to_thread(begin)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(end)

        return fault

    @classmethod
    def _door(cls, door: Proxy, begin: Callable[[], None]) -> Fault:
        return cls._between(begin, door.pass_on)


@contextlib.asynccontextmanager
async def open_town(folder: Path, chance: random.Random) -> AsyncIterator[Town]:
    """The rig's own server is stopped: its place take two whose ways all lead through the doors."""
    with (
        own_postgres() as postgres,
        own_redis() as redis,
        Proxy(postgres.url) as database_door,
        Proxy(redis.url) as redis_door,
        start_rig(
            folder,
            database_url=postgres.url,
            redis_url=redis.url,
            GATEWAY_COOLDOWN_AFTER="1000000",
            GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S="3",
            GATEWAY_UPSTREAM_IDLE_TIMEOUT_S="3",
            GATEWAY_SHUTDOWN_S="5",
        ) as rig,
        Proxy(rig.provider.base_url) as provider_door,
    ):
        rig.desk.catalog.add_provider("far", base_url=provider_door.url, api_key="canary-provider-credential")
        rig.server.stop()
        rig.environment |= {"GATEWAY_DATABASE_URL": database_door.url, "GATEWAY_REDIS_URL": redis_door.url}
        town = Town(rig, postgres, redis, [database_door, redis_door, provider_door], chance)
        try:
            yield town
        finally:
            town.lift()
            for machine in town.machines:
                machine.stop()
            rig.environment |= {"GATEWAY_DATABASE_URL": postgres.url, "GATEWAY_REDIS_URL": redis.url}
