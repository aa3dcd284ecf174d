"""The web application: routes, what every request has to pass, and the app's life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from srcyc._version import __version__
from srcyc_app.core import AppCore
from srcyc_app.server.access import Access, Rules
from srcyc_app.server.audit import Audit
from srcyc_app.server.environment import app_of_settings
from srcyc_app.server.failures import PROBLEMS, Failures, add_handlers
from srcyc_app.server.limits import Limits
from srcyc_app.server.metrics import Metrics
from srcyc_app.server.middleware import (
    HeadAsGet,
    KnownHosts,
    KnownOrigins,
    SecureHeaders,
    UploadLimit,
)
from srcyc_app.server.replies import Json
from srcyc_app.server.routes import background, compare, datastore, general, health, infer, models, sessions
from srcyc_app.server.services import Services

#: Seconds between two looks at which sessions are over.
_TIDY = 300.0


def create_app(
    allowed_hosts: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
    rules: Rules | None = None,
    limits: Limits | None = None,
    load: Callable[[], AppCore] = app_of_settings,
) -> FastAPI:
    """Make the application for the app and the studies that MONAI Label's settings name.

    The app is loaded when the application starts.

    Args:
        allowed_hosts: names by which the server may be called, besides this machine's own.
        cors_origins: pages elsewhere that may use it, as ``https://host[:port]``.
        rules: who is who; default: nobody needs to say.
        limits: what one user may take.
        load: gives the app.
    """
    rules = rules or Rules()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        instance = load()
        instance.server_mode(True)
        services = Services(instance, limits)
        app.state.services = services
        metrics.watch(services)
        tidying = asyncio.create_task(_tidy(instance))
        try:
            yield
        finally:
            tidying.cancel()
            await run_in_threadpool(services.close)

    metrics = Metrics()

    def largest() -> int:
        services: Services = app.state.services
        return services.app.max_upload

    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(cors_origins),
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Content-Disposition"],
    )
    app = FastAPI(
        title="SRCyc",
        description="MONAI Label's protocol; see https://docs.monai.io/projects/label. Not for diagnostic use.",
        version=__version__,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
        responses=PROBLEMS,
        lifespan=life,
        middleware=[
            Middleware(Audit, rules=rules, observe=metrics.observe),
            Middleware(SecureHeaders),
            Middleware(KnownHosts, hosts=allowed_hosts),
            Middleware(KnownOrigins, origins=cors_origins),
            *([cors] if cors_origins else []),
            Middleware(Access, rules=rules),
            Middleware(HeadAsGet),
            Middleware(UploadLimit, limit=largest),
            Middleware(Failures),
        ],
    )
    app.state.metrics = metrics
    add_handlers(app)
    for area in (health, general, infer, sessions, datastore, background, models, compare):
        app.include_router(area.router)
    return app


async def _tidy(app: AppCore) -> None:
    """Remove what is over, now and then."""
    while True:
        await run_in_threadpool(app.cleanup_sessions)
        await asyncio.sleep(_TIDY)
