"""The errors hzel answers with, and their one mapping to HTTP and gRPC.

HzelError
├── InvalidRequest          BAD_REQUEST
│   └── ValidationFailed    VALIDATION_FAILED, with the fields at fault
├── Unauthenticated         UNAUTHORIZED
├── Forbidden               FORBIDDEN
│   └── QuotaExceeded       QUOTA_EXCEEDED
├── NotFound                NOT_FOUND
│   ├── ContainerNotFound   CONTAINER_NOT_FOUND
│   └── CommandNotFound     COMMAND_NOT_FOUND
├── MethodNotAllowed        METHOD_NOT_ALLOWED
├── Conflict                CONFLICT
├── IdempotencyMismatch     IDEMPOTENCY_MISMATCH
├── PayloadTooLarge         PAYLOAD_TOO_LARGE
├── RateLimited             RATE_LIMITED
├── NotBuilt                NOT_IMPLEMENTED
├── Unavailable             UNAVAILABLE
│   └── SlowReader          SLOW_READER, of a stream that is open
├── TimedOut                TIMEOUT
└── Internal                INTERNAL_ERROR

Messages are for people outside: no path, no SQL, no gRPC detail.
"""

from dataclasses import dataclass
from typing import ClassVar

import grpc


@dataclass(frozen=True)
class FieldError:
    field: str
    message: str


class HzelError(Exception):
    code: ClassVar[str]
    http_status: ClassVar[int]
    grpc_status: ClassVar[grpc.StatusCode]
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(HzelError):
    code, http_status, grpc_status = "BAD_REQUEST", 400, grpc.StatusCode.INVALID_ARGUMENT


class ValidationFailed(InvalidRequest):
    code = "VALIDATION_FAILED"

    def __init__(self, message: str, details: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.details = details


class Unauthenticated(HzelError):
    code, http_status, grpc_status = "UNAUTHORIZED", 401, grpc.StatusCode.UNAUTHENTICATED


class Forbidden(HzelError):
    code, http_status, grpc_status = "FORBIDDEN", 403, grpc.StatusCode.PERMISSION_DENIED


class QuotaExceeded(Forbidden):
    code, grpc_status = "QUOTA_EXCEEDED", grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFound(HzelError):
    code, http_status, grpc_status = "NOT_FOUND", 404, grpc.StatusCode.NOT_FOUND


class ContainerNotFound(NotFound):
    code = "CONTAINER_NOT_FOUND"

    def __init__(self, message: str = "there is no such container") -> None:
        super().__init__(message)


class CommandNotFound(NotFound):
    code = "COMMAND_NOT_FOUND"

    def __init__(self, message: str = "there is no such command") -> None:
        super().__init__(message)


class MethodNotAllowed(HzelError):
    code, http_status, grpc_status = "METHOD_NOT_ALLOWED", 405, grpc.StatusCode.UNIMPLEMENTED


class Conflict(HzelError):
    code, http_status, grpc_status = "CONFLICT", 409, grpc.StatusCode.FAILED_PRECONDITION


class IdempotencyMismatch(HzelError):
    code, http_status, grpc_status = "IDEMPOTENCY_MISMATCH", 422, grpc.StatusCode.INVALID_ARGUMENT


class PayloadTooLarge(HzelError):
    code, http_status, grpc_status = "PAYLOAD_TOO_LARGE", 413, grpc.StatusCode.RESOURCE_EXHAUSTED


class RateLimited(HzelError):
    code, http_status, grpc_status = "RATE_LIMITED", 429, grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = 1


class NotBuilt(HzelError):
    code, http_status, grpc_status = "NOT_IMPLEMENTED", 501, grpc.StatusCode.UNIMPLEMENTED


class Unavailable(HzelError):
    code, http_status, grpc_status = "UNAVAILABLE", 503, grpc.StatusCode.UNAVAILABLE
    retry_after_s = 1


class SlowReader(Unavailable):
    code = "SLOW_READER"

    def __init__(self, message: str = "you read too slowly; go on from the last id you have") -> None:
        super().__init__(message)


class TimedOut(HzelError):
    code, http_status, grpc_status = "TIMEOUT", 504, grpc.StatusCode.DEADLINE_EXCEEDED


class Internal(HzelError):
    code, http_status, grpc_status = "INTERNAL_ERROR", 500, grpc.StatusCode.INTERNAL

    def __init__(self, message: str = "something went wrong on our side") -> None:
        super().__init__(message)


def _family(root: type[HzelError]) -> dict[str, type[HzelError]]:
    found = {root.code: root} if "code" in root.__dict__ else {}
    for child in root.__subclasses__():
        found |= _family(child)
    return found


BY_CODE: dict[str, type[HzelError]] = _family(HzelError)


def from_code(code: str, message: str) -> HzelError:
    """The error another service reported; an unknown code says nothing to clients but INTERNAL_ERROR."""
    found = BY_CODE.get(code)
    return found(message) if found else Internal()
