"""The event stream's frames, described; what is sent is made in `event_frames`."""

from typing import Any

from pydantic import AwareDatetime, BaseModel, Field


class StreamedEvent(BaseModel):
    id: str = Field(description="the place in the stream: what to go on after", examples=["1024-1795520058766678"])
    event_id: str | None = Field(
        None, description="of what happened, the same however often it is told; absent where the stream itself speaks"
    )
    type: str = Field(
        description="`container.state_changed`, `container.deleted`, `command.status_changed`, `terminal.opened`, …; "
        "`stream.opened`, `stream.gap`, `stream.position` and `stream.closed` are of the stream itself",
        examples=["container.state_changed"],
    )
    container_id: str | None
    time: AwareDatetime
    request_id: str | None = Field(None, description="of the request that has caused it, where one has")
    data: dict[str, Any]
