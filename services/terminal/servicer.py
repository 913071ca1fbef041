"""hzel.terminal.v1 over gRPC: parse, call, convert."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
from hzel.terminal.v1 import terminal_pb2 as pb
from hzel.terminal.v1 import terminal_pb2_grpc

from services.common.errors import HzelError, InvalidRequest, NotFound
from services.terminal import requests
from services.terminal.attachment import (
    LAST_OUTPUT_S,
    Attachment,
    Closed,
    CloseReason,
    InputTaken,
    Opened,
    Output,
    Resized,
    Told,
)
from services.terminal.recording import Origin, Recordings
from services.terminal.session import Session
from services.terminal.sessions import Sessions
from services.terminal.uploads import Uploads

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TerminalService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
Request = pb.OpenSessionRequest | pb.AttachSessionRequest
Response = TypeVar("Response", pb.OpenSessionResponse, pb.AttachSessionResponse)

REASONS = {
    CloseReason.EXITED: pb.CLOSE_REASON_EXITED,
    CloseReason.CLIENT: pb.CLOSE_REASON_CLIENT,
    CloseReason.IDLE: pb.CLOSE_REASON_IDLE,
    CloseReason.TAKEN_OVER: pb.CLOSE_REASON_TAKEN_OVER,
    CloseReason.STOPPING: pb.CLOSE_REASON_STOPPING,
}


class TerminalServicer(terminal_pb2_grpc.TerminalServiceServicer):
    def __init__(self, sessions: Sessions, uploads: Uploads, recordings: Recordings) -> None:
        self._sessions = sessions
        self._uploads = uploads
        self._recordings = recordings

    async def OpenSession(
        self, request_iterator: AsyncIterator[pb.OpenSessionRequest], context: Context
    ) -> AsyncIterator[pb.OpenSessionResponse]:
        first = await anext(request_iterator, pb.OpenSessionRequest())
        if first.WhichOneof("message") != "open":
            raise InvalidRequest("the first message must be `open`")
        session = await self._sessions.open(requests.wanted(first.open))
        attachment = session.first_attachment
        if first.open.HasField("size"):
            session.resize(attachment, requests.size(first.open.size))
        async for response in _conversation(session, attachment, request_iterator, pb.OpenSessionResponse):
            yield response

    async def AttachSession(
        self, request_iterator: AsyncIterator[pb.AttachSessionRequest], context: Context
    ) -> AsyncIterator[pb.AttachSessionResponse]:
        first = await anext(request_iterator, pb.AttachSessionRequest())
        if first.WhichOneof("message") != "attach":
            raise InvalidRequest("the first message must be `attach`")
        session = self._sessions.get(requests.session_id(first.attach.session_id))
        if session.order.container_id != first.attach.container_id:
            raise NotFound("there is no such session in this container")
        attachment = session.attach(first.attach.watch)
        async for response in _conversation(session, attachment, request_iterator, pb.AttachSessionResponse):
            yield response

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        return pb.ListSessionsResponse(sessions=[_session(one) for one in self._sessions.list(request.container_id)])

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        first = await anext(request_iterator, pb.UploadFileRequest())
        if first.WhichOneof("message") != "target":
            raise InvalidRequest("the first message must be `target`")
        session = self._sessions.get(requests.session_id(first.target.session_id))
        content = (request.content async for request in request_iterator)
        return pb.UploadFileResponse(size=await self._uploads.put(session, first.target.path, content))

    async def GetRecording(
        self, request: pb.GetRecordingRequest, context: Context
    ) -> AsyncIterator[pb.GetRecordingResponse]:
        async for part in self._recordings.read(request.id):
            if isinstance(part, Origin):
                recording = pb.Recording(container_id=part.container_id, requested_by=part.requested_by)
                yield pb.GetRecordingResponse(recording=recording)
            else:
                yield pb.GetRecordingResponse(content=part)


async def _conversation(
    session: Session, attachment: Attachment, incoming: AsyncIterator[Request], response: type[Response]
) -> AsyncIterator[Response]:
    """Until either side ends it, the client last; then the session is left."""
    hearing = asyncio.create_task(_hear(session, attachment, incoming))
    try:
        yield response(accepted=pb.Accepted(session_id=session.id))
        async for told in attachment.told():
            yield _response(session, told, response)
        # A client that acknowledges something after the end of the call would lose what it has not read yet.
        await asyncio.wait({hearing}, timeout=LAST_OUTPUT_S)
    finally:
        hearing.cancel()
        session.leave(attachment, for_good=False)


async def _hear(session: Session, attachment: Attachment, incoming: AsyncIterator[Request]) -> None:
    try:
        async for request in incoming:
            match request.WhichOneof("message"):
                case "input":
                    session.write(attachment, request.input)
                case "output_taken":
                    session.acknowledge(attachment, request.output_taken)
                case "resize":
                    session.resize(attachment, requests.size(request.resize))
                case "signal":
                    session.signal(attachment, requests.signal_number(request.signal))
                case "end":
                    session.leave(attachment, for_good=True)
                    attachment.leave()
                case other:
                    raise InvalidRequest(f"{other} has no place here")
    except HzelError as error:
        attachment.fail(error)


def _response(session: Session, told: Told, response: type[Response]) -> Response:
    match told:
        case Output(data):
            return response(output=data)
        case Opened():
            return response(opened=pb.Opened(session_id=session.id))
        case Resized(size):
            return response(resized=pb.Size(columns=size.columns, rows=size.rows))
        case InputTaken(total):
            return response(input_taken=total)
        case Closed(reason, exit_code):
            return response(closed=pb.Closed(reason=REASONS[reason], exit_code=exit_code))


def _session(session: Session) -> pb.Session:
    message = pb.Session(
        id=session.id,
        container_id=session.order.container_id,
        requested_by=session.order.requested_by,
        user=session.order.user,
        size=pb.Size(columns=session.size.columns, rows=session.size.rows),
        is_attached=session.is_attached,
        watchers=session.watchers,
    )
    message.opened_at.FromDatetime(session.opened_at)
    return message
