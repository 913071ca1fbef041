"""What goes on in containers, over gRPC beside a service's own API: see activity.proto."""

from collections.abc import Sequence
from typing import Any

import grpc
from hzel.activity.v1 import activity_pb2 as pb
from hzel.activity.v1 import activity_pb2_grpc

from services.common.activity import Activity, ActivitySource
from services.common.rpc.channel import call

TIMEOUT_S = 5.0


class ActivityServicer(activity_pb2_grpc.ActivityServiceServicer):
    def __init__(self, source: ActivitySource) -> None:
        self._source = source

    async def GetActivity(
        self, request: pb.GetActivityRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetActivityResponse:
        found = await self._source(request.container_ids)
        return pb.GetActivityResponse(
            activities=[
                pb.Activity(
                    container_id=one.container_id, is_active=one.is_active, last_active_s=one.last_active_s or 0
                )
                for one in found
                if one.is_active or one.last_active_s is not None
            ]
        )


def serve_activity(server: grpc.aio.Server, source: ActivitySource) -> None:
    activity_pb2_grpc.add_ActivityServiceServicer_to_server(ActivityServicer(source), server)


class ActivityClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = activity_pb2_grpc.ActivityServiceStub(channel)

    async def get(self, container_ids: Sequence[str]) -> list[Activity]:
        """Of those of which anything is known. Raises HzelError."""
        answer = await call(self._stub.GetActivity, pb.GetActivityRequest(container_ids=container_ids), TIMEOUT_S)
        return [Activity(one.container_id, one.is_active, one.last_active_s) for one in answer.activities]
