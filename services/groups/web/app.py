"""All that groups serves over HTTP beside its health."""

from collections.abc import Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.process_names import Does, ProcessName
from services.chassis.tracing import tracing
from services.groups.settings import GroupsSettings, WebSettings
from services.groups.web.api import api
from services.groups.web.context import WebContext, web_context
from services.groups.web.measured import Measured
from services.groups.web.page.site import page
from services.groups.web.problems import not_found

log = structlog.get_logger(__name__)


def web_app(at: WebContext) -> Starlette:
    """Make the application."""
    app = Starlette(routes=[Mount("/v1", api(at)), Mount("", page(at))])
    app.router.default = _nowhere
    app.add_middleware(Measured, routes=app.routes)
    if proxies := at.settings.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=proxies)
    app.middleware_stack = app.build_middleware_stack()  # not with the first request: it has metrics
    return app


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what no Mount matches: a path with a line break in it."""
    await not_found().response()(scope, receive, send)


class Web:
    """The application as the runtime wants it, with connections of its own: whoever reads never holds up a batch."""

    def __init__(self, settings: WebSettings, committed: Callable[[], None]) -> None:
        name = str(_process(settings))
        self._engine: AsyncEngine = postgres.engine_of(settings, settings.web_pool, "web", application_name=name)
        self._context = web_context(self._engine, settings, committed)
        self.app = tracing().site(web_app(self._context))

    def hang_up(self) -> None:
        """End what does not end by itself."""
        self._context.feed.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._context.tokens.close()
        await self._engine.dispose()


def _process(settings: WebSettings) -> ProcessName:
    replica = settings.replica if isinstance(settings, GroupsSettings) else None
    return ProcessName.of_this_process(Principal.GROUPS, Does(settings.role.value), replica)


def web(settings: WebSettings, committed: Callable[[], None]) -> Web | None:
    """Return the page and API; None if no keys are configured, for nobody could be known."""
    if settings.jwt_jwks is None:
        log.info("web_not_served", reason="jwt_jwks is not set")
        return None
    return Web(settings, committed)
