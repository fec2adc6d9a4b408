"""The direction of imports (docs/architecture.md), and what `import modal` may cost."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

# First matching prefix wins: (package, packages of ours it may import, third-party packages it may import).
RULES: list[tuple[str, set[str], set[str]]] = [
    ("modal._protocol", {"modal._protocol"}, set()),
    ("modal.cli", {"modal"}, {"click", "rich"}),
    ("modal.__main__", {"modal"}, {"click", "rich"}),
    ("modal._output", {"modal"}, {"click", "rich"}),
    ("modal", {"modal"}, {"cloudpickle"}),
    (
        "intermodal.runner",
        {"intermodal.runner", "modal._protocol", "modal._context", "modal._serialization"},
        {"cloudpickle"},
    ),
    (
        "intermodal.server",
        {"intermodal.server", "intermodal.", "modal._protocol"},
        {"uvloop", "cryptography", "cronsim", "h2", "hpack", "httptools", "websockets"},
    ),
    (
        "intermodal.worker",
        {"intermodal.worker", "intermodal.", "modal._protocol"},
        {"uvloop", "cryptography", "uv", "yaml"},
    ),
    ("intermodal.cli", {"intermodal", "modal._protocol"}, {"click", "rich"}),
    ("intermodal.__main__", {"intermodal", "modal._protocol"}, {"click", "rich"}),
    ("intermodal", {"intermodal.", "modal._protocol"}, {"uvloop", "cryptography"}),
]
PARTS = {"runner", "server", "worker", "cli"}  # "intermodal." above means: modules shared by these, not these
LAZY = {  # third-party packages that may be imported only inside a function, and by whom
    "modal": {"tomli", "tomli_w", "dotenv", "rich", "typing_extensions", "IPython"},
    "intermodal.runner": {"fastapi"},  # the user's image's
    "modal.cli": {"watchfiles"},
    "intermodal.worker": {"rattler"},  # in build containers; an extra of the installation
    "intermodal.server": {"keyring", "acme", "josepy", "requests"},  # likewise
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found.append((".".join(parts), path))
    return found


NAMES = {name for name, _path in modules()}


def imports(name: str, path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module imported, line, whether at the top level), without what only the type checker sees."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, top: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                yield from visit(child, top)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")
                anchor = anchor[: len(anchor) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in NAMES else base), node.lineno, top
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, top and not inside)

    yield from visit(ast.parse(path.read_text(), str(path)), True)


def rule(name: str) -> tuple[str, set[str], set[str]]:
    return next(entry for entry in RULES if name == entry[0] or name.startswith(entry[0] + "."))


def within(module: str, package: str) -> bool:
    if package == "intermodal.":  # what the parts share
        return module == "intermodal" or (module.startswith("intermodal.") and module.split(".")[1] not in PARTS)
    return module == package or module.startswith(package + ".")


def ours_allowed(owner: str, allowed: set[str], module: str, top: bool) -> bool:
    if owner == "intermodal.runner" and not top:
        return within(module, "modal") or within(module, owner)  # what user code uses: loaded when it is needed
    if owner == "modal" and (within(module, "modal.cli") or within(module, "modal._output")):
        return not top and within(module, "modal._output")  # `enable_output` needs it when it is called
    return any(within(module, package) for package in allowed)


def test_imports_go_down_only() -> None:
    wrong = []
    for name, path in modules():
        owner, ours, others = rule(name)
        for module, line, top in imports(name, path):
            root = module.partition(".")[0]
            if root in ("modal", "intermodal"):
                fine = ours_allowed(owner, ours, module, top)
            elif root in sys.stdlib_module_names or root in ("__future__", "tomllib"):
                fine = True
            else:
                fine = root in others or (not top and root in LAZY.get(owner, set()))
            if not fine:
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {owner} must not import {module} here")
    assert not wrong, "\n".join(wrong)


def fresh(statement: str) -> dict[str, list[str]]:
    """Which modules a new interpreter has after `statement` that it had not before."""
    program = (
        "import sys, json\nbefore = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps({'all': sorted(set(sys.modules) - before)}))"
    )
    # -S: no site-packages hooks of the machine count; the source is put on the path by hand
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, list[str]] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize(
    "statement",
    ["import modal", "import modal._protocol.blocking, modal._protocol.messages"],
)
def test_import_brings_nothing_before_it_is_needed(statement: str) -> None:
    loaded = fresh(statement)["all"]
    roots = {module.partition(".")[0] for module in loaded}
    assert not roots & {"asyncio", "dataclasses", "inspect"}, f"{statement} imports what it does not need yet"
    third_party = {root for root in roots if root not in sys.stdlib_module_names and root != "modal"}
    assert not third_party, f"{statement} imports {sorted(third_party)}"


def test_a_container_starts_without_what_only_failures_need() -> None:
    parts = ("forks", "loading", "inputs", "invoker", "values")  # what it has before the user's module
    loaded = fresh("import intermodal.runner.process, " + ", ".join(f"intermodal.runner.{part}" for part in parts))
    needless = {"asyncio", "dataclasses", "inspect", "traceback", "tokenize", "cloudpickle", "ctypes"}
    assert not needless & set(loaded["all"])
