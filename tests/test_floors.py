"""The floors of the package: an import leads down, never up, and never in a circle (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scrapy_supabase"
# From the lowest to the highest.
FLOORS = (
    *("messages", "errors", "models", "eventloop"),
    *("backends", "schema", "rows", "local", "spool", "settings", "monitoring", "delivery"),
    *("assembly", "report", "middleware", "pipeline", "addon", "script", "__init__"),
    *("checkup", "testing", "pytest_plugin", "commands", "contrib"),
)


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """The modules of the package that a module imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES}


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def floor(module: str) -> str:
    """The folder or module at the top of the package."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_folder_and_module_at_the_top_has_its_floor() -> None:
    """Nothing else lies there."""
    listed = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert listed == set(FLOORS)
    assert len(FLOORS) == len(listed)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_lead_down(module: str) -> None:
    """To the same floor or a lower one."""
    height = FLOORS.index(floor(module))
    assert [name for name in GRAPH[module] if FLOORS.index(floor(name)) > height] == []


def test_no_circle() -> None:
    """Within a folder, too; raises `CycleError` with the circle. A package that collects its modules is left out."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    TopologicalSorter({name: found - packages for name, found in GRAPH.items()}).prepare()
