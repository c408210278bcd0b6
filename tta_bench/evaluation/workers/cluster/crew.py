"""The crew of a Ray cluster: as many actors as there is room for, heard by `ray.wait`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ray

from tta_bench.errors import UsageError
from tta_bench.evaluation.workers.cluster.actor import Actor, Place
from tta_bench.evaluation.workers.cluster.connection import LOCAL, Connection, check_address
from tta_bench.evaluation.workers.cluster.handshake import terms
from tta_bench.evaluation.workers.cluster.member import ActorMember
from tta_bench.evaluation.workers.crew import PATIENCE, Crew
from tta_bench.evaluation.workers.fixed import cores, crowding, fixed_environment, threads_of
from tta_bench.evaluation.workers.messages import Said
from tta_bench.model.device import pick_device
from tta_bench.store.environment import precision_overrides

if TYPE_CHECKING:
    from tta_bench.evaluation.job import SettingSpec

_GRACE = 1.0
"""Seconds that actors get to end by themselves."""

_LONG = 30.0
"""Seconds without a start after which the user is told that an actor waits for its place."""

_SILENCE = 300.0
"""Seconds without an answer after which an actor counts as gone."""

_LOOK = 2.0
"""Seconds between two looks at what the cluster has."""


class RayCrew(Crew[ActorMember]):
    """Actors on a Ray cluster, one a GPU, or so many on CPUs.

    Args:
        address: `HOST:PORT`, `auto`, or `local` for a cluster of our own.
        count: of actors; None for one a GPU.

    Raises:
        UsageError: the address is none.
    """

    def __init__(self, address: str, count: int | None):
        super().__init__(count or 0)
        check_address(address)
        self._address = address
        self._connection: Connection | None = None
        self._needs: dict[str, int] = {}
        self._places, self._looked = 0, -_LOOK
        self._told: set[int] = set()
        self._options: dict[str, Any] = {}
        self._place: Place | None = None

    def places(self) -> int:
        if time.monotonic() - self._looked > _LOOK:
            self._places = sum(_fit(node, self._needs) for node in _nodes())
            self._looked = time.monotonic()
        return min(self._places, self.count)

    def listen(self) -> Iterator[tuple[ActorMember, object]]:
        by_answer = {one.answer: one for one in self.members}
        first, others = ray.wait(list(by_answer), num_returns=1, timeout=PATIENCE)
        more = ray.wait(others, num_returns=len(others), timeout=0)[0] if first and others else []
        for answer in [*first, *more]:
            for message in by_answer[answer].hear():
                yield by_answer[answer], message
        for member in list(self.members):
            there, silence = member.hello is not None, member.silence
            if there and silence > _SILENCE:
                yield member, None
            elif not there and silence > _LONG and member.number not in self._told:
                self._told.add(member.number)
                yield member, Said("waits for its place in the cluster", remark=True)

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"ray": ray.__version__}

    def close(self) -> None:
        """Ends all actors within seconds: asked first, so that they put down what they hold."""
        started = [one for one in self.members if one.hello is not None]
        if started:
            asked = [one.stop(_GRACE) for one in started]
            ray.wait(asked, num_returns=len(asked), timeout=_GRACE)
        super().close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, spec: SettingSpec) -> list[str]:
        on_gpu = self._on_gpu(spec)
        own: dict[str, int] = {}
        notes: list[str] = []
        if self._address == LOCAL and not on_gpu:
            threads = threads_of(spec.device, 1)
            own = {"num_cpus": max(cores(), self.count * threads), "num_gpus": 0}
            notes = crowding(self.count, threads)
        self._connection = Connection(self._address, own)
        nodes = _nodes()
        if spec.device == "auto" and not on_gpu and any(node.get("GPU") for node in nodes):
            raise UsageError(
                "the cluster has GPUs and this machine has none, which decides what is read: run "
                "the command on a machine with one, or give --device cpu."
            )
        parts = [int(node.get("CPU", 1) // node["GPU"]) for node in nodes if node.get("GPU")]
        self.threads = threads_of(spec.device, min(parts, default=1))
        self._needs = {"CPU": 1, "GPU": 1} if on_gpu else {"CPU": self.threads}
        self._check_room(sum(_fit(node, self._needs) for node in nodes))
        self._place = Place(spec.device, self.threads, os.getcwd(), terms())
        self._options = {
            "num_cpus": self._needs["CPU"],
            "num_gpus": self._needs.get("GPU", 0),
            # Who tries what again, and how often, is the pool's to say.
            "max_restarts": 0,
            "max_task_retries": 0,
            # One call waits for messages, one brings a task or the end.
            "max_concurrency": 2,
            "runtime_env": {"env_vars": fixed_environment(self.threads) | precision_overrides()},
        }
        return notes

    def _on_gpu(self, spec: SettingSpec) -> bool:
        """Whether each worker has a GPU; raises UsageError where none can have what it needs."""
        if spec.loading.device_map is not None:
            raise UsageError(
                "--device-map auto spreads a model over all GPUs, and --ray gives each worker one; "
                "leave one of the two out."
            )
        kind = pick_device(spec.device).type
        if kind == "mps":
            raise UsageError("--ray shares work among CUDA devices or CPUs; give --device cpu.")
        if kind == "cpu" and not self.count:
            raise UsageError(
                "--ray has one worker a GPU, and none is used here: say with --workers how many "
                "share the CPUs, or run the command on a machine with a GPU."
            )
        return kind == "cuda"

    def _check_room(self, room: int) -> None:
        """Takes as many actors as there is room for, or raises UsageError where more are asked."""
        self.count = self.count or room
        if not room or self.count > room:
            each = " and ".join(f"{amount} {name}" for name, amount in self._needs.items())
            raise UsageError(
                f"the cluster has room for {room} workers of {each} each; give fewer --workers or "
                "add nodes."
            )

    def _hire(self, number: int) -> ActorMember:
        return ActorMember(number, ray.remote(**self._options)(Actor).remote(self._place))


def _nodes() -> list[Mapping[str, float]]:
    """What each living node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fit(node: Mapping[str, float], needs: Mapping[str, int]) -> int:
    """How many workers fit on a node."""
    return min(int(node.get(name, 0) // amount) for name, amount in needs.items())
