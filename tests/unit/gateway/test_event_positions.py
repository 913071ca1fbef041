"""Where a client goes on, for everything that may have become of the stream since."""

import pytest

from services.gateway.event_positions import BEGINNING, CLOCKS_DIFFER_US, Gap, Kept, Position, Start, start_after

MADE_US = 1_000_000_000
SEEN = Position(50, MADE_US + 500_000_000)
AS_IT_WAS = SEEN.time_us
BEFORE_IT = Start(None, SEEN.time_us - CLOCKS_DIFFER_US, Gap.LOST)


def test_an_id_is_read_as_it_was_written() -> None:
    assert Position.parse(str(SEEN)) == SEEN
    assert Position.parse("0") == BEGINNING


@pytest.mark.parametrize("text", ["", "1", "-1", "1-", "1-2-3", " 1-2", "1-2\n", "a-b", "٣-٣", "1" * 19 + "-1", "00"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be the id"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("kept", "found_us", "expected"),
    [
        # The message is there: go on behind it, whether or not there is anything.
        (Kept(MADE_US, 1, 90), AS_IT_WAS, Start(51)),
        (Kept(MADE_US, 50, 50), AS_IT_WAS, Start(51)),
        # It has expired, but nothing after it has.
        (Kept(MADE_US, 51, 90), None, Start(51)),
        (Kept(MADE_US, 51, 50), None, Start(51)),
        # Later ones have expired, too.
        (Kept(MADE_US, 52, 90), None, Start(52, gap=Gap.EXPIRED)),
        (Kept(MADE_US, 91, 90), None, Start(91, gap=Gap.EXPIRED)),
        # The store was lost, and the number is not there yet, is another message, or has expired again.
        (Kept(SEEN.time_us + 1, 1, 0), None, BEFORE_IT),
        (Kept(SEEN.time_us + 1, 1, 90), SEEN.time_us + 9, BEFORE_IT),
        (Kept(SEEN.time_us + 1, 51, 90), None, BEFORE_IT),
        # The last writes were lost, and the numbers given again.
        (Kept(MADE_US, 1, 49), None, BEFORE_IT),
        (Kept(MADE_US, 1, 90), SEEN.time_us + 9, BEFORE_IT),
    ],
)
def test_it_goes_on_exactly_or_says_that_it_can_not(kept: Kept, found_us: int | None, expected: Start) -> None:
    assert start_after(SEEN, kept, found_us) == expected


def test_from_an_empty_stream_on_nothing_is_missed() -> None:
    made = Position(0, MADE_US)
    assert start_after(made, Kept(MADE_US, 1, 0), None) == Start(1)
    assert start_after(made, Kept(MADE_US, 1, 7), None) == Start(1)
    assert start_after(made, Kept(MADE_US, 3, 7), None).gap is Gap.EXPIRED


def test_0_begins_with_the_oldest_and_is_no_gap() -> None:
    assert start_after(BEGINNING, Kept(MADE_US, 40, 90), None) == Start(40)
