"""The dependency rules of the package, checked on its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "apr_qa"
FAMILIES = ("formats", "backends", "oracles", "properties", "gates", "reports", "defects")
STAGES = (
    "registry",
    "resolve",
    "playbook",
    "scenarios",
    "plan",
    "runner",
    "evidence",
    "mqs",
    "certificate",
    "ledger",
)
ENGINES = ("torch", "transformers", "llama_cpp")
HEAVY = ("numpy", "torch", "transformers", "llama_cpp", "yaml", "pydantic", "hypothesis", "jinja2")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


MODULES = dict(modules())
IMPORTS = {
    name: {i for i in imports(tree) if i.startswith("apr_qa")} & (set(MODULES) | set())
    for name, tree in MODULES.items()
}


def test_there_is_no_import_cycle_not_even_a_lazy_one() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for other in sorted(IMPORTS[name] - {name, "apr_qa"}):
            visit(other, (*path, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.split(".")[1:2] and name.split(".")[1] in FAMILIES]
)
def test_a_plugin_imports_no_sibling_and_no_stage(name: str) -> None:
    family = name.split(".")[1]
    for other in IMPORTS[name]:
        parts = other.split(".")
        sibling = len(parts) > 2 and parts[1] in FAMILIES and other != name and not parts[-1].startswith("_")
        assert not sibling or (parts[1] == family and len(parts) == 2), f"{name} imports {other}"
        assert parts[1:2] != ["certify"] and not (
            len(parts) == 2 and parts[1] in STAGES and parts[1] != "mqs"
        ), f"{name} imports the stage {other}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_imports_only_what_lies_below_it(name: str) -> None:
    allowed = {"runner": {"plan"}, "certificate": {"mqs"}}.get(name, set())
    for other in IMPORTS[f"apr_qa.{name}"]:
        parts = other.split(".")
        assert parts[1:2] != ["cli"], f"{name} imports {other}"
        assert len(parts) != 2 or parts[1] not in (*STAGES, "certify") or parts[1] in allowed, (
            f"{name} imports {other}"
        )


def test_only_the_command_line_imports_click_prints_or_exits() -> None:
    for name, tree in MODULES.items():
        if name.startswith("apr_qa.cli") or name == "apr_qa.__main__":
            continue
        assert not any(i.split(".")[0] == "click" for i in imports(tree)), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{name}:{node.lineno} prints"


def test_only_processes_starts_processes_and_what_forks_for_it() -> None:
    for name, tree in MODULES.items():
        if name not in ("apr_qa.processes", "apr_qa.forked"):
            assert not {"subprocess", "multiprocessing"} & {i.split(".")[0] for i in imports(tree)}, name


def test_engines_are_imported_inside_functions_only() -> None:
    for name, tree in MODULES.items():
        top_level = ast.Module(
            body=[n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], type_ignores=[]
        )
        assert not {i.split(".")[0] for i in imports(top_level)} & set(ENGINES), name


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.split(".")[1:2] in (["gates"], ["oracles"], ["reports"])]
)
def test_gates_oracles_and_reports_are_pure(name: str) -> None:
    used = {i.split(".")[0] for i in imports(MODULES[name])}
    assert not used & {"time", "random", "os", "socket", "tempfile", "datetime"}, name


def test_no_module_has_a_name_that_says_nothing() -> None:
    forbidden = {"utils", "util", "helpers", "common", "core", "base", "manager", "handler", "misc"}
    assert not forbidden & {part for name in MODULES for part in name.split(".")}


def test_modules_and_functions_stay_readable() -> None:
    long = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 350:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > 60:
                long.append(f"{path.name}:{node.name}")
    assert not long
