"""SageMaker's route `/invocations`: a chat or a text completion under another path."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from composer.errors import UnsupportedError, quoted
from server.compose.incoming.request_fields import FIELD
from server.engine.port import Body, Kind

INVOCATIONS = "/invocations"
_HEADERS = b"x-amzn-sagemaker-"
_ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"


def read_invocation(scope: Scope, body: Body) -> tuple[Kind, Body]:
    """Return the route that a request to `/invocations` is meant for, and its body there.

    SageMaker's header names an adapter; it takes the place of the field `model`.

    Raises:
        UnsupportedError: the body belongs to no known route, or contradicts the header.
    """
    kind = Kind.CHAT if "messages" in body else Kind.COMPLETION
    if "messages" not in body and "prompt" not in body:
        raise UnsupportedError(
            f"a request to {INVOCATIONS} has 'messages', as in {Kind.CHAT}, or a 'prompt', as in "
            f"{Kind.COMPLETION}. This one has neither."
        )
    adapter = Headers(scope=scope).get(_ADAPTER)
    if adapter is None:
        return kind, body
    if body.get("model", adapter) != adapter or FIELD in body:
        raise UnsupportedError(
            f"the header {_ADAPTER} asks for {quoted(adapter)}, and the body for "
            "something else. Leave one of them out.",
            param="model",
        )
    return kind, body | {"model": adapter}


def redirect(scope: Scope, kind: Kind) -> Scope:
    """Return the scope of a request to `/invocations` as one of a request to `kind`.

    vLLM's handler of `/invocations` would take the model from SageMaker's header, after all checks,
    and ignore the field `model`.
    """
    path = scope.get("root_path", "") + kind.value
    headers = [(k, v) for k, v in scope["headers"] if not k.lower().startswith(_HEADERS)]
    return {**scope, "path": path, "raw_path": path.encode(), "headers": headers}
