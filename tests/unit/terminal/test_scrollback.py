"""The last output of a session, by its offset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.terminal.scrollback import SMALL, Scrollback

PIECES = st.lists(st.one_of(st.binary(max_size=50), st.binary(min_size=SMALL - 2, max_size=2 * SMALL)), max_size=12)


@given(pieces=PIECES, offset=st.integers(0, 40_000), most=st.integers(1, 20_000))
def test_what_is_read_is_what_was_appended(pieces: list[bytes], offset: int, most: int) -> None:
    scrollback = Scrollback(1)
    for piece in pieces:
        scrollback.append(piece)
    everything = b"".join(pieces)
    offset = min(offset, scrollback.end)
    assert scrollback.end == len(everything)
    assert scrollback.read(offset, most) == everything[offset : offset + most]


@given(pieces=PIECES, kept=st.integers(0, 9000), needed=st.integers(0, 40_000))
def test_a_trim_forgets_only_what_nobody_needs(pieces: list[bytes], kept: int, needed: int) -> None:
    scrollback = Scrollback(kept)
    for piece in pieces:
        scrollback.append(piece)
        scrollback.trim(needed)
    everything = b"".join(pieces)
    assert scrollback.start <= max(0, min(needed, scrollback.end - kept))
    assert scrollback.read(scrollback.start, len(everything)) == everything[scrollback.start :]


def test_a_large_piece_is_handed_out_as_it_is() -> None:
    scrollback = Scrollback(0)
    piece = b"x" * 100_000
    scrollback.append(piece)
    assert scrollback.read(0, 100_000) is piece


def test_single_bytes_do_not_weigh_more_than_they_are() -> None:
    scrollback = Scrollback(1 << 20)
    for _ in range(100_000):
        scrollback.append(b"x")
    assert len(scrollback._pieces) <= 100_000 // SMALL + 1


def test_what_is_forgotten_cannot_be_read() -> None:
    scrollback = Scrollback(0)
    scrollback.append(b"x" * SMALL)
    scrollback.append(b"y" * SMALL)
    scrollback.trim(SMALL)
    assert scrollback.start == SMALL
    with pytest.raises(ValueError, match="offset 0"):
        scrollback.read(0, 1)
