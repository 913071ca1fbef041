"""The lines of a container's log, described; what is sent is made in `log_frames`."""

from typing import Literal

from pydantic import BaseModel, Field


class LogEntry(BaseModel):
    """A line of what the container's own process wrote; or, with `lost_bytes` alone, that some are missing here."""

    time: str = Field(
        description="when its end was read, to the nanosecond; no two lines have the same, and they grow: it can be "
        "given as `since`",
        examples=["2026-11-24T12:00:37.123456789Z"],
    )
    stream: Literal["stdout", "stderr"] | None = Field(None, description="absent with `lost_bytes`")
    line: str | None = Field(None, description="without its newline; what is no UTF-8 is U+FFFD")
    partial: bool = Field(False, description="of a line longer than 16 KiB: it goes on with the stream's next entry")
    lost_bytes: int | None = Field(
        None, description="so much was removed before it was read, up to `time`; null where nobody knows how much"
    )
