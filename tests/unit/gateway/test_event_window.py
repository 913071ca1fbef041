"""The latest frames and the places in them."""

from datetime import UTC, datetime

import pytest

from services.gateway.event_frames import StreamFrame, gap_frame
from services.gateway.event_positions import Gap, Position
from services.gateway.event_window import Overtaken, Window

SIZE = 10


def frame(seq: int, time_us: int = 0) -> StreamFrame:
    return StreamFrame(Position(seq, time_us or seq), "u", False, b"", b"", b"")


def filled(first: int, last: int) -> Window:
    window = Window(SIZE)
    window.begin(first)
    for seq in range(first, last + 1):
        window.append(frame(seq))
    return window


def seqs(window: Window, index: int) -> list[int]:
    return [one.position.seq for one in window.since(index, 100)]


def test_a_reader_goes_on_behind_the_frame_it_names() -> None:
    window = filled(5, 9)
    index = window.after(Position(7, 7))
    assert index is not None
    assert seqs(window, index) == [8, 9]
    assert window.after(Position(9, 9)) == window.end
    assert window.after(Position(7, 1)) is None, "the same number, another message"
    assert window.after(Position(4, 4)) is None
    assert window.after(Position(10, 10)) is None


def test_at_least_the_latest_are_kept_and_who_is_further_behind_is_overtaken() -> None:
    window = filled(1, 1000)
    with pytest.raises(Overtaken):
        window.since(0, 1)
    assert seqs(window, window.end - SIZE) == list(range(991, 1001))
    assert window.at(1) is None
    assert len(window.since(window.end - SIZE, 3)) == 3


def test_a_replay_joins_where_everything_from_its_place_on_is_there() -> None:
    window = filled(5, 9)
    joined = window.at(7)
    assert joined is not None
    assert seqs(window, joined) == [7, 8, 9]
    assert window.at(4) is None
    assert window.at(10) == window.end
    assert Window(SIZE).at(0) == 0


def test_after_a_gap_the_numbers_are_others() -> None:
    window = filled(100, 105)
    window.begin(1, gap_frame(Position(105, 105), Gap.LOST, datetime.now(UTC)))
    assert window.after(Position(105, 105)) is None
    assert window.at(105) == window.end
    window.append(frame(1, 2000))
    window.append(frame(2, 2001))
    assert seqs(window, window.segment_start - 1) == [105, 1, 2], "the gap first"
    assert window.after(Position(1, 2000)) == window.end - 1
    assert window.segment == 2
