"""Which command runs next."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exec.queue import FairQueue, QueueFull


def started(queue: FairQueue) -> list[str]:
    """Everything that may start now."""
    found = []
    while (command_id := queue.next()) is not None:
        found.append(command_id)
    return found


def test_a_containers_commands_start_in_their_order() -> None:
    queue = FairQueue(2, 10, 100)
    for number in range(4):
        queue.add("a", f"a{number}")
    assert started(queue) == ["a0", "a1"]
    queue.release("a")
    assert started(queue) == ["a2"]


def test_containers_take_turns_however_many_wait() -> None:
    queue = FairQueue(100, 100, 100)
    for number in range(50):
        queue.add("greedy", f"g{number}")
    queue.add("b", "b0")
    queue.add("c", "c0")
    queue.add("c", "c1")
    assert started(queue)[:6] == ["g0", "b0", "c0", "g1", "c1", "g2"]


def test_one_who_came_late_waits_for_one_slot_of_the_node_and_not_for_the_whole_queue() -> None:
    queue = FairQueue(8, 8, 1000)
    for number in range(500):
        queue.add("greedy", f"g{number}")
    assert len(started(queue)) == 8
    queue.add("b", "b0")
    queue.release("greedy")
    queue.release("greedy")
    assert "b0" in started(queue)


def test_a_container_at_its_limit_holds_up_no_other() -> None:
    queue = FairQueue(1, 10, 100)
    queue.add("a", "a0")
    queue.add("a", "a1")
    queue.add("b", "b0")
    assert started(queue) == ["a0", "b0"]


def test_a_full_queue_says_so_and_another_containers_is_not_full() -> None:
    queue = FairQueue(1, 10, 2)
    queue.add("a", "a0")
    queue.check_room("a")
    queue.add("a", "a1")
    with pytest.raises(QueueFull):
        queue.check_room("a")
    queue.check_room("b")
    queue.next()
    queue.check_room("a")


def test_one_that_waits_can_be_taken_out_once() -> None:
    queue = FairQueue(1, 10, 100)
    queue.add("a", "a0")
    queue.add("a", "a1")
    assert queue.remove("a", "a1")
    assert not queue.remove("a", "a1")
    assert not queue.remove("b", "a0")
    assert started(queue) == ["a0"]
    assert not queue.remove("a", "a0")


def test_what_runs_already_counts_even_beyond_the_limits() -> None:
    queue = FairQueue(1, 2, 100)
    for _ in range(3):
        queue.occupy("a")
    queue.add("b", "b0")
    assert (queue.running, started(queue)) == (3, [])
    queue.release("a")
    queue.release("a")
    assert started(queue) == ["b0"]


CONTAINERS = st.sampled_from("abcd")
STEPS = st.lists(st.tuples(st.sampled_from(["add", "next", "release", "remove"]), CONTAINERS), max_size=120)


@given(STEPS, st.integers(1, 3), st.integers(1, 5))
def test_whatever_happens_limits_hold_and_nothing_is_lost_or_started_twice(
    steps: list[tuple[str, str]], per_container: int, per_node: int
) -> None:
    queue = FairQueue(per_container, per_node, 1000)
    waiting: dict[str, list[str]] = {name: [] for name in "abcd"}
    running: Counter[str] = Counter()
    for number, (step, container) in enumerate(steps):
        if step == "add":
            queue.add(container, f"{container}{number}")
            waiting[container].append(f"{container}{number}")
        elif step == "remove" and waiting[container]:
            gone = waiting[container].pop()
            assert queue.remove(container, gone)
        elif step == "release" and running[container]:
            queue.release(container)
            running[container] -= 1
        elif step == "next":
            command_id = queue.next()
            if command_id is None:
                free = running.total() < per_node
                assert not any(waiting[name] and running[name] < per_container and free for name in "abcd")
            else:
                assert waiting[command_id[0]].pop(0) == command_id
                running[command_id[0]] += 1
        assert running.total() <= per_node
        assert all(count <= per_container for count in running.values())
        assert queue.waiting == sum(map(len, waiting.values()))
        assert queue.running == running.total()
