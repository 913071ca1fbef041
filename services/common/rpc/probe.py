"""Whether a service of ours serves."""

import grpc
from grpc_health.v1 import health_pb2

from services.common.errors import Unavailable
from services.common.rpc.channel import call

TIMEOUT_S = 2.0


class Probe:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    async def check(self) -> None:
        """Raises Unavailable unless the service says that it serves."""
        answer = await call(self._check, health_pb2.HealthCheckRequest(), TIMEOUT_S)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable("the node's service is not serving")
