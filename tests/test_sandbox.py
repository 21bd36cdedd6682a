"""Generated code is contained, and no code under test can write its own verdict."""

from __future__ import annotations

import ast
import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa.errors import EXIT_ENVIRONMENT, EnvironmentFault
from apr_qa.sandbox import Limits, Trial, bubblewrap, wire
from apr_qa.sandbox.client import Sandbox
from apr_qa.sandbox.values import Encoder, NoValue, decode

LIMITS = Limits(wall_s=1.2, cpu_s=1, memory_mb=256, disk_mb=8)
WALLS = {
    "all": (),
    "namespaces alone": ("bubblewrap", "landlock", "seccomp"),
    "landlock and seccomp": ("bubblewrap", "namespaces"),
    "bubblewrap, landlock and seccomp": ("namespaces",),
}
"""Where bubblewrap is not installed, the last one is the one before it, and the first is without it."""
SQUARE = "assert f(3) == 9\nassert f(2) == 4\n"


def cases() -> dict[str, str]:
    """Return the hostile programs by name; each gives the right answers if what it tries succeeds."""
    text = (Path(__file__).parent / "cases" / "sandbox" / "hostile.py").read_text(encoding="utf-8")
    found = {}
    for part in text.split("\n# ---- ")[1:]:
        name, _, source = part.partition("\n")
        found[name.strip()] = source
    return found


HOSTILE = cases()


@pytest.fixture(scope="module", params=WALLS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(LIMITS, without=WALLS[request.param]) as running:
        yield running


@pytest.fixture(scope="module")
def whole() -> Iterator[Sandbox]:
    with Sandbox(LIMITS) as running:
        yield running


def processes_of(sandbox: Sandbox) -> set[int]:
    """Return all processes of a sandbox: each carries the server's arguments, which name its scratch folder."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if sandbox.isolation["scratch"].encode() in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found - {os.getpid()}


def settled(sandbox: Sandbox, before: set[int]) -> bool:
    """Say whether only the server is left; a supervisor ends a moment after its verdict."""
    deadline = time.monotonic() + 3
    while processes_of(sandbox) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    return processes_of(sandbox) == before


# ---- bubblewrap


def fake_bubblewrap(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called bwrap first on the path."""
    program = folder / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_bubblewrap_that_is_forbidden_is_told_and_the_other_walls_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_bubblewrap(
        tmp_path, monkeypatch, "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1"
    )
    with Sandbox(LIMITS) as sandbox:
        assert not sandbox.isolation["bubblewrap"] and not sandbox.isolation["missing"]
        assert any("No permissions" in said for said in sandbox.isolation["refusals"])
        assert sandbox.try_out(Trial("def f(x):\n    return x * x\n", SQUARE, "f")).passed
        assert not sandbox.try_out(
            Trial(HOSTILE["a grandchild that outlives its parents"], "assert False")
        ).passed


def test_what_bubblewrap_is_asked_for_shows_the_library_and_nothing_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_bubblewrap(tmp_path, monkeypatch, "exit 1")
    asked = list(bubblewrap.wrappers("/scratch/here", "/somewhere/apr_qa"))
    assert [one[0] for one in asked] == [str(tmp_path / "bwrap")] * len(asked) and asked
    for one in asked:
        assert "--unshare-all" in one and "--die-with-parent" in one and one[-1] == "--"
        bound = [one[i + 1] for i, word in enumerate(one) if word in ("--ro-bind", "--bind")]
        assert "/" not in bound and str(Path.home()) not in bound and "/etc" not in bound
        assert [one[i + 1] for i, word in enumerate(one) if word == "--bind"] == ["/scratch/here"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert not list(bubblewrap.wrappers("/scratch/here", "/somewhere/apr_qa"))


# ---- what is hostile


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_neither_passes_nor_escapes(
    sandbox: Sandbox, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    canary = tmp_path_factory.mktemp("home") / "canary.txt"
    canary.write_text("precious", encoding="utf-8")
    canary.parent.chmod(0o777)
    canary.chmod(0o666)
    before = processes_of(sandbox)
    program = HOSTILE[name].replace("@CANARY@", str(canary)).replace("@PID@", str(os.getpid()))
    verdict = sandbox.try_out(Trial(program, SQUARE, "f"))
    assert not verdict.passed, verdict
    assert verdict.outcome in ("failed", "timeout", "crashed"), verdict
    assert verdict.wall_s < LIMITS.wall_s + 2
    assert canary.read_text(encoding="utf-8") == "precious"
    assert [path.name for path in canary.parent.iterdir()] == ["canary.txt"]
    assert settled(sandbox, before)
    assert not list(Path(sandbox.isolation["scratch"]).iterdir())


def test_after_all_of_them_an_honest_program_still_passes(sandbox: Sandbox) -> None:
    verdict = sandbox.try_out(Trial("def f(x):\n    return x * x\n", SQUARE, "f"))
    assert verdict.passed, verdict


def test_a_program_sees_an_empty_folder_that_it_may_write_to(sandbox: Sandbox) -> None:
    program = """
import os, tempfile, statistics
def f(x):
    if os.listdir("."):
        return None
    with open("note.txt", "w") as out:
        out.write(str(x * x))
    with tempfile.TemporaryFile() as out:
        out.write(b"x")
    return int(open("note.txt").read()) if x == 3 else os.remove("note.txt") or 4
"""
    test = "assert f(3) == 9\nassert f(2) is None\n"
    verdict = sandbox.try_out(Trial(program, test, "f"))
    assert verdict.passed, verdict


def test_two_programs_share_nothing(sandbox: Sandbox) -> None:
    leave = Trial("def f(x):\n    open('left.txt', 'w').write('x')\n    return x", "assert f(1) == 1", "f")
    find = Trial("import os\ndef f(x):\n    return os.path.exists('left.txt')", "assert f(1) is False", "f")
    assert [verdict.passed for verdict in sandbox.try_all([leave, find], 1)] == [True, True]


def test_an_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Sandbox(LIMITS) as sandbox:
        verdict = sandbox.try_out(
            Trial("import os\ndef f():\n    return dict(os.environ)", "assert 'secret' not in str(f())", "f")
        )
    assert verdict.passed, verdict


def test_the_test_is_not_in_the_memory_of_the_candidate(whole: Sandbox) -> None:
    program = """
import gc, sys
def f(x):
    texts = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
    for frame in sys._current_frames().values():
        while frame:
            texts += [frame.f_locals, frame.f_globals]
            frame = frame.f_back
    found = [v for o in texts for v in (o.values() if isinstance(o, dict) else o) if isinstance(v, str)]
    return any("sesquipedalian"[::-1] in text for text in found)
"""
    verdict = whole.try_out(Trial(program, "assert f('') is False  # nailadepiuqses", "f"))
    assert verdict.passed, verdict


def test_where_nothing_isolates_it_refuses_and_says_what_is_missing() -> None:
    with pytest.raises(EnvironmentFault, match="no wall for files, network, processes") as refused:
        Sandbox(LIMITS, without=("bubblewrap", "namespaces", "landlock", "seccomp"))
    assert refused.value.exit_code == EXIT_ENVIRONMENT
    assert "--unsafe" in refused.value.fix


def test_landlock_alone_is_not_enough() -> None:
    with pytest.raises(EnvironmentFault, match="no wall for network, processes"):
        Sandbox(LIMITS, without=("bubblewrap", "namespaces", "seccomp"))


def test_unsafe_runs_without_walls_and_still_compares_outside() -> None:
    with Sandbox(LIMITS, unsafe=True, without=("bubblewrap", "namespaces", "landlock", "seccomp")) as sandbox:
        before = processes_of(sandbox)
        honest = sandbox.try_out(Trial("def f(x):\n    return x * x", SQUARE, "f"))
        liar = sandbox.try_out(Trial(HOSTILE["an object that equals everything"], SQUARE, "f"))
        daemon = sandbox.try_out(Trial(HOSTILE["a grandchild that outlives its parents"], SQUARE, "f"))
        assert (honest.outcome, liar.outcome) == ("passed", "failed"), (honest, liar)
        assert daemon.outcome in ("passed", "failed", "timeout")
        assert sandbox.isolation["missing"] == ["files", "network", "processes"]
        assert settled(sandbox, before)


def test_a_closed_sandbox_leaves_no_process_and_no_folder() -> None:
    with Sandbox(LIMITS) as sandbox:
        assert processes_of(sandbox)
    assert not processes_of(sandbox)
    assert not Path(sandbox.isolation["scratch"]).exists()


# ---- what is judged


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(x):\n    return x / 3", "assert abs(f(1) - 0.3333) < 1e-3"),
        (
            "def f(x):\n    return [x, (x,), {x}, {'a': x}, b'x', 1j]",
            "assert f(1) == [1, (1,), {1}, {'a': 1}, b'x', 1j]",
        ),
        ("def f(x):\n    return 7 ** x", "assert f(5000) == 7 ** 5000"),
        ("def f():\n    return float('nan')", "value = f()\nassert value != value"),
        ("def f(x):\n    return x in 'abc'", "assert f('a') and not f('z')\nassert isinstance(f('a'), bool)"),
        ("def f(x):\n    x.sort()", "x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]"),
        ("def f(x):\n    x.update(b=2)", "x = {'a': 1}\nassert f(x) is None\nassert x == {'a': 1, 'b': 2}"),
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]\nassert sum(f(4)) == 6"),
        (
            "class P:\n    def __init__(self, a):\n        self.a = a\n"
            "    def twice(self):\n        return self.a * 2\n"
            "def f(ps):\n    return max(p.a for p in ps)",
            "assert f([P(3), P(5)]) == 5\nassert P(4).twice() == 8 and P(4).a == 4",
        ),
        (
            "def f(x):\n    raise ValueError('no')",
            "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'",
        ),
        (
            "from collections import Counter\ndef f(x):\n    return Counter(x)",
            "assert f('aab') == {'a': 2, 'b': 1}",
        ),
        ("from collections import namedtuple\nf = namedtuple('f', 'a b')", "assert f(1, 2) == (1, 2)"),
        ("def f(x):\n    return '\\ud800' + x", "assert f('a') == '\\ud800a'"),
        ("if __name__ == '__main__':\n    raise SystemExit\ndef f():\n    return 1", "assert f() == 1"),
    ],
)
def test_every_form_of_assertion_works_on_what_comes_back(whole: Sandbox, program: str, test: str) -> None:
    verdict = whole.try_out(Trial(program, test, "f"))
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("program", "test", "outcome", "reason"),
    [
        ("def f(x):\n    return x + 1", "assert f(1) == 3", "failed", "AssertionError (line 1"),
        ("def f(x):\n    return 'ab'[x]", "assert f(2) == 3", "failed", "IndexError"),
        ("def f(x)\n", "assert f(2) == 3", "failed", "SyntaxError"),
        ("def g(x): pass", "assert f(2) == 3", "failed", "NameError: the program defines no 'f'"),
        ("def f(x):\n    return x", "f(2)", "invalid", "asserts nothing"),
        ("def f(x):\n    return x", "assert True", "invalid", "never called"),
        ("def f(x):\n    return x", "assert f(", "invalid", "SyntaxError"),
        ("def f(x):\n    return x", "import sys\nf(1)\nsys.exit(0)\nassert 1", "failed", "SystemExit"),
        ("import os, signal\ndef f(x):\n    os.abort()", "assert f(1)", "crashed", "died of SIG"),
        ("def f(x):\n    x.clear()\n    return []", "x = [1]\nassert f(x) == sorted(x)", "failed", "AssertionError"),
        ("class f:\n    pass", "assert f() == f()", "failed", "AssertionError"),
        ("class f:\n    pass", "assert f()", "failed", "not a value"),
        ("def f(x):\n    raise StopIteration", "assert all(map(f, [1, 2]))", "failed", "StopIteration"),
        ("def f(x):\n    raise SystemExit(0)", "assert f(1)", "failed", "SystemExit"),
        ("class E(Exception): pass\ndef f(x):\n    raise E('mine')", "assert f(1)", "failed", "E: mine"),
    ],
)  # fmt: skip
def test_a_verdict_says_why(whole: Sandbox, program: str, test: str, outcome: str, reason: str) -> None:
    verdict = whole.try_out(Trial(program, test, "f"))
    assert verdict.outcome == outcome, verdict
    assert reason in verdict.reason


def test_a_test_may_use_the_trusted_definitions_but_not_replace_the_program_by_them(whole: Sandbox) -> None:
    helpers = (
        "import math\n\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
    )
    lying = "def poly(xs, x):\n    return 0.0\n\ndef root(xs):\n    return 42.0\n"
    honest = "def root(xs):\n    return -xs[0] / xs[1]\n"
    test = "assert math.fabs(poly([1, 2], root([1, 2]))) < 1e-4"
    verdicts = whole.try_all([Trial(program, test, "root", helpers) for program in (honest, lying)])
    assert [verdict.passed for verdict in verdicts] == [True, False]


def test_many_trials_keep_their_order(whole: Sandbox) -> None:
    trials = [Trial(f"def f():\n    return {n}", f"assert f() == {n} and {n} % 3", "f") for n in range(12)]
    assert [verdict.passed for verdict in whole.try_all(trials)] == [n % 3 > 0 for n in range(12)]


# ---- values


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 70)
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(exclude_categories=()))
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.timedeltas(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def refuse(_: Any) -> Any:
    raise NoValue("opaque")


@given(plain)
def test_a_value_arrives_as_it_was_sent(value: Any) -> None:
    sent, received = os.pipe()[::-1]
    with open(sent, "wb", closefd=True) as out, open(received, "rb", closefd=True):  # noqa: PTH123
        data = Encoder(refuse).encode(value)
        if len(repr(data)) < 30_000:  # a pipe's buffer
            wire.send(out.fileno(), data)
            data = wire.receive(received)
    back = decode(data, refuse)
    assert repr(back) == repr(value)
    assert type(back) is type(value)


TAGS = ("int", "float", "range", "dict", "set", "Fraction", "timedelta", "object")
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner)
    | st.tuples(st.sampled_from(TAGS), inner).map(list),
)  # fmt: skip


@given(junk)
def test_junk_is_refused_or_is_an_exact_builtin(data: Any) -> None:
    with contextlib.suppress(NoValue):
        value = decode(data, refuse)
        assert type(value).__module__ in ("builtins", "datetime", "decimal", "fractions", "collections")


@pytest.mark.parametrize("kind", [int, float, str, bytes, list, tuple, dict, set])
def test_an_instance_of_a_subclass_is_no_value(kind: type) -> None:
    lying = type("Lying", (kind,), {"__eq__": lambda *_: True, "__hash__": lambda _: 0})
    with pytest.raises(NoValue):
        Encoder(refuse).encode(lying())
    with pytest.raises(NoValue):
        Encoder(refuse).encode([lying()])


def test_what_is_too_deep_or_endless_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NoValue):
        Encoder(refuse).encode(endless)
    deep: Any = 1
    for _ in range(10_000):
        deep = ["list", [deep]]
    with pytest.raises(NoValue):
        decode(deep, refuse)


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    received, sent = os.pipe()
    os.write(sent, (wire.MAX_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(wire.BadMessage):
        wire.receive(received)
    with pytest.raises(wire.BadMessage):
        wire.send(sent, "x" * (wire.MAX_BYTES + 1))
    os.close(sent)
    assert wire.receive(received) is None
    os.close(received)


def test_every_hostile_program_parses_and_would_pass_if_it_succeeded() -> None:
    assert len(HOSTILE) >= 18
    for name, source in HOSTILE.items():
        tree = ast.parse(source)
        assert any("f" in getattr(node, "name", "") for node in tree.body) or "f =" in source, name
    assert math.isfinite(LIMITS.wall_s)
