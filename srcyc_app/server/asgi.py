"""What our ASGI middleware has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class HttpMiddleware(ABC):
    """Meets HTTP requests; what else there is, the application's life, passes through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.meet if scope["type"] == "http" else self._app)(scope, receive, send)

    @abstractmethod
    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
