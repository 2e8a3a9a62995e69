"""Packages import only from lower layers, and no imports are circular (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each package and the packages it may import besides itself.
ALLOWED = {
    "infra": set(),
    "models": {"infra"},
    "datasets": {"models", "infra"},
    "evaluation": {"datasets", "models", "infra"},
    "training": {"evaluation", "datasets", "models", "infra"},
    "serving": {"datasets", "models", "infra"},
    "motiondirector": {"serving", "training", "evaluation", "datasets", "models", "infra"},
}


# The rooms inside a room, lowest first: a module may import those before its own. Modules outside any are free.
INSIDE = {
    "infra": ("storage", "ray"),
    "models": ("lora", "foundations", "families", "adapters", "scale"),
    "datasets": ("video", "sprites", "clip_sets", "ingest"),
    "training": ("reporting", "loop", "ray", "runs", "batch"),
    "serving": ("adapters", "engine", "jobs", "tenants", "files", "trainings", "http", "ray"),
    "training.batch": ("state", "profile", "manifest", "latents", "watch", "lane", "cluster"),
}


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names & ALLOWED.keys()


def test_imports_run_downwards():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for room, allowed in ALLOWED.items()
        for path in sorted((ROOT / room).rglob("*.py"))
        for other in sorted(imported_rooms(path) - allowed - {room})
    ]
    assert wrong == []


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))}


def run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run, including functions; not those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from run_nodes(node)


def imported_modules(code: str) -> set[str]:
    """The project's modules that a module imports, at the top or in a function."""
    names = set()
    for node in run_nodes(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            whole = {f"{module}.{alias.name}" for alias in node.names}
            names |= whole if whole <= MODULES.keys() else {module, *whole}
    return names & MODULES.keys()


@pytest.mark.parametrize("house", INSIDE)
def test_imports_run_one_way_inside_a_room(house):
    place = {f"{house}.{room}": number for number, room in enumerate(INSIDE[house])}
    of = {name: place.get(".".join(name.split(".")[: house.count(".") + 2])) for name in MODULES}
    assert set(place.values()) <= set(of.values())
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if of[name] is not None
        for other in imported_modules(path.read_text())
        if of[other] is not None and other.startswith(house + ".") and of[other] > of[name]
    ]
    assert wrong == []


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    """Neither at the top nor in functions."""
    graph = {name: imported_modules(path.read_text()) - {name} for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > len(MODULES)  # the graph has edges
    assert cycle_in(graph) == []


@pytest.mark.parametrize(
    "code",
    ["from infra.storage import Storage", "def f():\n    import infra.storage", "from infra import storage"],
)
def test_a_circle_is_found_wherever_the_import_stands(code):
    assert imported_modules(code) == {"infra.storage"}
    assert cycle_in({"infra.storage.s3": imported_modules(code), "infra.storage": {"infra.storage.s3"}})


def test_an_import_for_types_alone_makes_no_circle():
    assert imported_modules("if TYPE_CHECKING:\n    import infra.storage") == set()


def test_every_room_says_what_it_is_for():
    for room in ALLOWED:
        assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())), room
