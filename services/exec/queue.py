"""Which command runs next (pure): containers take turns, each in the order of its commands."""

from collections import Counter, OrderedDict, deque


class QueueFull(Exception):
    pass


class FairQueue:
    """At most `per_container` and `per_node` run at once; at most `waiting` wait for each container."""

    def __init__(self, per_container: int, per_node: int, waiting: int) -> None:
        self._per_container = per_container
        self._per_node = per_node
        self._waiting = waiting
        self._queues: OrderedDict[str, deque[str]] = OrderedDict()
        self._running: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Of all containers."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def running(self) -> int:
        return self._running.total()

    def check_room(self, container_id: str) -> None:
        """Raises QueueFull."""
        if len(self._queues.get(container_id, ())) >= self._waiting:
            raise QueueFull

    def add(self, container_id: str, command_id: str) -> None:
        self._queues.setdefault(container_id, deque()).append(command_id)

    def remove(self, container_id: str, command_id: str) -> bool:
        """Whether it was still waiting."""
        queue = self._queues.get(container_id)
        if queue is None or command_id not in queue:
            return False
        queue.remove(command_id)
        if not queue:
            del self._queues[container_id]
        return True

    def occupy(self, container_id: str) -> None:
        """A slot is taken by a command that runs already, whatever the limits."""
        self._running[container_id] += 1

    def next(self) -> str | None:
        """The command to start now, which takes a slot; None when there is none, or no slot."""
        if self._running.total() >= self._per_node:
            return None
        for container_id, queue in self._queues.items():
            if self._running[container_id] >= self._per_container:
                continue
            command_id = queue.popleft()
            self._queues.move_to_end(container_id)
            if not queue:
                del self._queues[container_id]
            self._running[container_id] += 1
            return command_id
        return None

    def release(self, container_id: str) -> None:
        self._running[container_id] -= 1
        if self._running[container_id] <= 0:
            del self._running[container_id]
