"""An OpenAI-compatible server over one loaded session.

Routes: ``GET /health``, ``GET /v1/models``, ``POST /v1/completions``, ``POST /v1/chat/completions``. Requests
that wait for the session are answered in one batch, as is a list of prompts. Streaming and
plain answers come from the same decode loop, so their texts are equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.backends import Request, Session
from apr_qa.errors import AprQaError, EngineMissing, EnvironmentFault, InferenceFailed
from apr_qa.inference.protected_prompt import tokens
from apr_qa.serving import server_requests as asked
from apr_qa.serving.server_answers import Shape, event
from apr_qa.serving.server_requests import RequestError
from apr_qa.vocabulary import Response

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request as HttpRequest
    from starlette.responses import Response as HttpResponse

MAX_BODY_BYTES = 8 << 20
START_TIMEOUT_S = 30.0
GATHER_S = 0.01
"""How long a request waits for others to share its batch; much less than one token takes."""

MOST_GATHER_S = 0.25
"""How long it waits for requests that have arrived and are still being read or rendered."""

GRACE_S = 3

"""Seconds that open connections get to finish after SIGTERM."""

_POLL_S = 0.01


def create_app(session: Session, model_id: str) -> Starlette:
    """Return the application that answers for ``session`` under the name ``model_id``."""
    return _Service(session, model_id).application()


def serve(session: Session, model_id: str, host: str, port: int) -> None:
    """Serve until SIGTERM (returns) or SIGINT (raises KeyboardInterrupt); the caller closes the session.

    Raises EnvironmentFault if the address cannot be used, EngineMissing without uvicorn.
    """
    with contextlib.closing(_listen(host, port)) as listening, _sigterm_only_stops():
        _uvicorn_server(session, model_id).run(sockets=[listening])


@contextlib.contextmanager
def serving(session: Session, model_id: str, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of this process and yield the base URL; port 0 takes a free one."""
    server = _uvicorn_server(session, model_id)
    with contextlib.closing(_listen(host, port)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="apr-qa-serve")
        thread.start()
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not server.started:
                if time.monotonic() > deadline or not thread.is_alive():
                    raise EnvironmentFault("the server did not start", where=f"{host}:{port}")
                time.sleep(_POLL_S)
            yield f"http://{host}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _listen(host: str, port: int) -> socket.socket:
    # uvicorn would end the process if it could not bind; this way it is an error like any other.
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise EnvironmentFault(
            f"cannot listen: {error}", where=f"{host}:{port}", fix="name a free port"
        ) from error


def _uvicorn_server(session: Session, model_id: str) -> uvicorn.Server:
    try:
        import uvicorn
    except ImportError as error:
        raise EngineMissing(f"uvicorn is missing: {error}", fix="pip install 'apr-qa[serve]'") from error
    service = _Service(session, model_id)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.stopping.set()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            service.application(),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE_S,
        )
    )


@contextlib.contextmanager
def _sigterm_only_stops() -> Iterator[None]:
    """uvicorn raises the signal that stopped it again; without this the process would die of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Service:
    """The session, the lock around it, and the routes."""

    def __init__(self, session: Session, model_id: str) -> None:
        self.session = session
        self.model_id = model_id
        self.stopping = threading.Event()
        self.lock = asyncio.Lock()
        self.waiting: list[tuple[list[Request], asyncio.Future[list[Response]]]] = []
        self.arriving: set[Any] = set()
        """Tasks of requests that have come in but do not wait for the session yet."""
        self.created = int(time.time())
        # The first rendering starts the process that runs templates; a client should not wait for that.
        with contextlib.suppress(AprQaError):
            session.render_chat([{"role": "user", "content": "Hello"}])

    def application(self) -> Starlette:
        try:
            from starlette.applications import Starlette
            from starlette.exceptions import HTTPException
            from starlette.routing import Route
        except ImportError as error:
            raise EngineMissing(
                f"starlette is missing: {error}", fix="pip install 'apr-qa[serve]'"
            ) from error
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ],
            exception_handlers={RequestError: _refused, HTTPException: _not_routed},
        )

    async def health(self, http: HttpRequest) -> HttpResponse:
        return _json({"status": "ok"})

    async def models(self, http: HttpRequest) -> HttpResponse:
        entry = {"id": self.model_id, "object": "model", "created": self.created, "owned_by": "apr-qa"}
        return _json({"object": "list", "data": [entry]})

    async def completions(self, http: HttpRequest) -> HttpResponse:
        with self._arrival():
            content = asked.parse(await _body(http))
            limits = asked.wanted(content, self.model_id)
            requests = [_request(prompt, limits) for prompt in asked.prompts(content)]
            if limits.stream and len(requests) > 1:
                raise RequestError(400, "stream takes one prompt", "prompt")
            shape = Shape("text_completion", "cmpl", self.model_id)
            return await self._answer(requests, shape, limits.stream)

    async def chat(self, http: HttpRequest) -> HttpResponse:
        with self._arrival():
            content = asked.parse(await _body(http))
            limits = asked.wanted(content, self.model_id)
            messages = asked.messages(content)
            try:
                text = await self._locked(lambda: self.session.render_chat(messages))
            except InferenceFailed as error:
                raise RequestError(400, error.what, "messages") from error
            shape = Shape("chat.completion", "chatcmpl", self.model_id)
            return await self._answer([_request(text, limits, templated=True)], shape, limits.stream)

    @contextlib.contextmanager
    def _arrival(self) -> Iterator[None]:
        """Count a request as on its way until it waits for the session or is answered."""
        task = asyncio.current_task()
        self.arriving.add(task)
        try:
            yield
        finally:
            self.arriving.discard(task)

    async def _answer(self, requests: list[Request], shape: Shape, stream: bool) -> HttpResponse:
        from starlette.responses import StreamingResponse

        try:
            await self._locked(lambda: self._require_room(requests))
            if stream:
                return StreamingResponse(self._events(requests[0], shape), media_type="text/event-stream")
            responses = await self._batched(requests)
        except AprQaError as error:
            raise RequestError(500, error.what) from error
        for response in responses:
            if response.finish_reason == "error":
                raise RequestError(500, str(response.facts["error"]))
        return _json(shape.whole(responses))

    async def _batched(self, requests: list[Request]) -> list[Response]:
        """Answer together with everything else that waits: a batch costs little more than one sequence."""
        mine: asyncio.Future[list[Response]] = asyncio.get_running_loop().create_future()
        self.waiting.append((requests, mine))
        self.arriving.discard(asyncio.current_task())
        deadline = time.monotonic() + MOST_GATHER_S
        await asyncio.sleep(GATHER_S)
        while self.arriving and time.monotonic() < deadline:
            await asyncio.sleep(GATHER_S)
        async with self.lock:
            if not mine.done():
                taken, self.waiting = self.waiting, []
                await self._answer_all(taken)
        return await mine

    async def _answer_all(self, taken: list[tuple[list[Request], asyncio.Future[list[Response]]]]) -> None:
        from starlette.concurrency import run_in_threadpool

        together = [request for requests, _ in taken for request in requests]
        try:
            responses = iter(await run_in_threadpool(self._generate, together))
        except (AprQaError, RequestError) as error:
            for _, future in taken:
                future.set_exception(error)
            return
        for requests, future in taken:
            future.set_result([next(responses) for _ in requests])

    async def _locked(self, work: Callable[[], Any]) -> Any:
        from starlette.concurrency import run_in_threadpool

        async with self.lock:
            return await run_in_threadpool(work)

    def _require_room(self, requests: Sequence[Request]) -> None:
        """Refuse what cannot run before the answer begins: a stream has sent its status by then."""
        for request in requests:
            tokens = self._count_tokens(request)
            if tokens == 0:
                raise RequestError(400, "the prompt has no tokens", "prompt")
            if 0 < self.session.context_size < tokens + request.max_tokens:
                message = (
                    f"{tokens} prompt tokens and max_tokens {request.max_tokens} exceed the context of "
                    f"{self.session.context_size}"
                )
                raise RequestError(400, message, "max_tokens", "context_length_exceeded")

    def _count_tokens(self, request: Request) -> int:
        try:
            return len(tokens(self.session.tokenize, request.prompt, templated=request.templated))
        except InferenceFailed as error:
            raise RequestError(400, error.what, "prompt") from error

    def _generate(self, requests: list[Request]) -> list[Response]:
        """Answer in one batch; a single request token by token, so that a stopping server need not wait."""
        if len(requests) > 1:
            return self.session.generate(requests)
        pieces = self.session.stream(requests[0])
        while True:
            _, response = _advance(pieces)
            if response is not None:
                return [response]
            if self.stopping.is_set():
                raise RequestError(503, "the server is stopping")

    async def _events(self, request: Request, shape: Shape) -> AsyncIterator[str]:
        from starlette.concurrency import run_in_threadpool

        async with self.lock:
            with contextlib.closing(self.session.stream(request)) as pieces:
                try:
                    while not self.stopping.is_set():
                        piece, response = await run_in_threadpool(_advance, pieces)
                        if response is not None:
                            yield event(shape.last(response))
                            yield "data: [DONE]\n\n"
                            return
                        if piece:
                            yield event(shape.chunk(piece))
                except AprQaError as error:
                    yield event(RequestError(500, error.what).content)


def _request(prompt: str, limits: asked.Wanted, *, templated: bool = False) -> Request:
    return Request(
        prompt=prompt,
        max_tokens=limits.max_tokens,
        temperature=limits.temperature,
        seed=limits.seed,
        stop=limits.stop,
        templated=templated,
        top_p=limits.top_p,
        top_k=limits.top_k,
    )


def _advance(pieces: Generator[str, None, Response]) -> tuple[str, Response | None]:
    """Return the next piece, or the response when there is none."""
    try:
        return next(pieces), None
    except StopIteration as end:
        response: Response = end.value
        return "", response


async def _body(http: HttpRequest) -> bytes:
    """Read the body, and no more of it than is allowed."""
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _json(content: dict[str, Any], status: int = 200) -> HttpResponse:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status)


async def _refused(http: HttpRequest, error: Exception) -> HttpResponse:
    refusal = error if isinstance(error, RequestError) else RequestError(500, str(error))
    return _json(refusal.content, refusal.status)


async def _not_routed(http: HttpRequest, error: Exception) -> HttpResponse:
    status = getattr(error, "status_code", 500)
    return _json(
        RequestError(status, f"{http.method} {http.url.path}: {getattr(error, 'detail', error)}").content,
        status,
    )
