"""The house: imports run downwards only (docs/architecture.md)."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Each room and the rooms it may import besides itself.
ALLOWED = {
    "infra": set(),
    "models": {"infra"},
    "datasets": {"models", "infra"},
    "evaluation": {"datasets", "models", "infra"},
    "training": {"evaluation", "datasets", "models", "infra"},
    "serving": {"datasets", "models", "infra"},
    "motiondirector": {"serving", "training", "evaluation", "datasets", "models", "infra"},
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


def test_every_room_says_what_it_is_for():
    for room in ALLOWED:
        assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())), room
