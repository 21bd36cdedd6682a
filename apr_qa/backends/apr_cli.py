"""The external ``apr`` program as an engine: one call for each text, and a server for ``serve``.

It tells neither token ids of a prompt nor logits nor a rendered template; claims about those are inapplicable.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa import apr_binary, devices
from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import Inapplicable, InferenceFailed, MalformedFile
from apr_qa.vocabulary import FORMATS, Response, Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MUTE = "the apr program tells no {}"


class AprSession:
    """One file that the program is called with."""

    context_size = 0
    endpoint = ""
    """As a server does, the program renders the template itself and answers as a whole."""

    def __init__(self, file: Path, *, gpu: bool, vocab_size: int = 0) -> None:
        self.vocab_size = vocab_size
        self._file = str(file)
        self._gpu = gpu
        self._one_at_a_time = threading.Lock()
        """Every call loads the model anew; two at a time would need the memory twice."""

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        raise Inapplicable(_MUTE.format("token ids of a text"))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        raise Inapplicable(_MUTE.format("text of token ids"))

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        raise Inapplicable(_MUTE.format("logits"))

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        raise Inapplicable(_MUTE.format("rendered template; use chat"))

    def stream(self, request: Request) -> Generator[str, None, Response]:
        raise Inapplicable("what the apr program streams is not told apart from its other output")

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        raise Inapplicable(f"the apr program cannot be looked into, as {check!r} asks for")

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        if any(request.templated for request in requests):
            raise Inapplicable(_MUTE.format("rendered template; use chat"))
        if any(request.stop for request in requests):
            raise Inapplicable("the apr program takes no stop strings")
        responses = [self._answered(request) for request in requests]
        if requests and all(response.finish_reason == "error" for response in responses):
            raise InferenceFailed(str(responses[0].facts["error"]))
        return responses

    def _answered(self, request: Request) -> Response:
        try:
            return self._run(request)
        except (InferenceFailed, MalformedFile) as failure:
            return Response(finish_reason="error", facts={"error": failure.what})

    def _run(self, request: Request) -> Response:
        words = ["run", self._file, f"--prompt={request.prompt}", f"--max-tokens={request.max_tokens}"]
        words += [f"--temperature={request.temperature:g}", f"--seed={request.seed}", *self._device()]
        if request.temperature > 0:
            words += [f"--top-k={request.top_k}"] if request.top_k else []
            words += [f"--top-p={request.top_p:g}"] if request.top_p < 1 else []
        with self._one_at_a_time:
            answer = apr_binary.ask(words, wanted=("text", "tokens_generated"), gpu=self._gpu)
        self._check_device(answer)
        text, echoed = _without_echo(apr_binary.plain(str(answer["text"])), request.prompt)
        tokens = answer["tokens_generated"]
        if type(tokens) is not int or tokens < 0:
            raise InferenceFailed(f"apr run: tokens_generated is {tokens!r}")
        ids = answer.get("tokens")
        complete = isinstance(ids, list) and len(ids) == tokens and all(type(one) is int for one in ids)
        rate, taken = answer.get("tok_per_sec"), answer.get("inference_time_ms")
        return Response(
            text=text,
            token_ids=tuple(ids) if complete and ids else None,
            finish_reason="stop" if tokens < request.max_tokens else "length",
            vocab_size=self.vocab_size or None,
            duration_s=taken / 1000 if isinstance(taken, int | float) and taken > 0 else None,
            tokens_per_s=float(rate) if isinstance(rate, int | float) and rate > 0 else None,
            facts={"completion_tokens": tokens, "echo_removed": echoed},
        )

    def _check_device(self, answer: dict[str, Any]) -> None:
        used = answer.get("used_gpu")
        if isinstance(used, bool) and used is not self._gpu:
            asked, ran = ("GPU", "CPU") if self._gpu else ("CPU", "GPU")
            raise InferenceFailed(f"apr run was asked to use the {asked} and used the {ran}")

    def _device(self) -> list[str]:
        return ["--gpu"] if self._gpu else ["--no-gpu"]

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Response:
        """Say the user's turns again, one after the other, and return the last answer."""
        turns = [message["content"] for message in messages if message["role"] == "user"]
        system = [message["content"] for message in messages if message["role"] == "system"]
        if not turns or any("\n" in turn or "\r" in turn for turn in turns):
            raise Inapplicable("apr chat reads turns of one line each")
        words = ["chat", self._file, f"--max-tokens={max_tokens}", f"--temperature={temperature:g}"]
        words += [*(f"--system={text}" for text in system), *self._device()]
        with self._one_at_a_time:
            done = apr_binary.call(words, stdin="".join(f"{turn}\n" for turn in turns), gpu=self._gpu)
        if done.code:
            raise apr_binary.refusal("chat", done)
        text = apr_binary.conversation_text(done.out, len(turns))
        return Response(text=text, duration_s=done.seconds)

    def close(self) -> None:
        """Nothing is held: every call is a process of its own."""


def _without_echo(text: str, prompt: str) -> tuple[str, bool]:
    """Return what was generated: a text that begins with the whole prompt repeats it."""
    echoed = bool(prompt.strip()) and text.startswith(prompt)
    return (text[len(prompt) :] if echoed else text), echoed


class AprCli:
    """The engine of the external program; absent, its targets are inapplicable."""

    name = "apr_cli"
    formats: tuple[str, ...] = FORMATS

    def unavailable(self, target: Target) -> str | None:
        if apr_binary.located() is None:
            return apr_binary.ABSENT
        return devices.cuda_missing() if target.backend == "gpu" else None

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Session:
        """Let the program read the header; raises Inapplicable without it, and MalformedFile."""
        apr_binary.required()
        file = apr_binary.weights(artifact)
        if not file.exists():
            raise MalformedFile("there is no such file", where=str(file))
        try:
            header = apr_binary.ask(["inspect", str(file)], wanted=("format", "tensor_count"))
        except InferenceFailed as failure:
            raise MalformedFile(failure.what, where=file.name) from failure
        if not header["tensor_count"]:
            raise MalformedFile("apr inspect finds no tensor", where=file.name)
        size = header.get("vocab_size")
        return AprSession(file, gpu=target.backend == "gpu", vocab_size=size if type(size) is int else 0)


BACKENDS.register("apr_cli")(AprCli())
