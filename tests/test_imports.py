"""Data flows downwards: no module imports one of a higher floor, also not inside a function; no large circles.

Imports for type checkers alone are left out: nothing flows through them when the code runs.
"""

import ast
import functools
from pathlib import Path

import convzoo

PACKAGE = Path(convzoo.__file__).parent
# from the ground up; what stands in one line may import from lower lines, and from its own package
FLOORS = (
    {"_checks", "_introspection", "_wrappers", "_images", "_table"},
    {"_modules"},
    {"_inert", "_prepare", "_spread"},
    {"_transform"},
    {"registry"},
    {"models"},
    {"profiling", "explain", "inference", "finetune"},
    {"weights"},
    {"zoo"},
    {"comparison"},
    {""},  # the package itself, which names what is public
    {"commands"},
    {"__main__"},
)
LARGEST_CIRCLE = 4


def name_of(path):
    parts = ("convzoo", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(name):
    """The package's modules that the code of one imports, wherever it does."""
    path = MODULES[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    unseen = {id(inner) for node in ast.walk(tree) if is_for_checkers(node) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "convzoo"}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parent = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            if module.split(".")[0] == "convzoo":
                found |= {inner if (inner := f"{module}.{alias.name}") in MODULES else module for alias in node.names}
    return found


def is_for_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@functools.cache
def graph():
    return {name: imports_of(name) for name in MODULES}


def room_of(name):
    return name.removeprefix("convzoo").removeprefix(".").split(".")[0]


def floor_of(name):
    return next(floor for floor, rooms in enumerate(FLOORS) if room_of(name) in rooms)


def test_every_module_has_a_floor():
    assert {room_of(name) for name in MODULES} == set().union(*FLOORS)


def test_no_module_imports_a_higher_one():
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in sorted(others)
        if room_of(name) != room_of(other) and floor_of(other) >= floor_of(name)
    ]
    assert wrong == []


def reached_from(name):
    reached, ahead = set(), [name]
    while ahead:
        for other in graph()[ahead.pop()] - reached:
            reached.add(other)
            ahead.append(other)
    return reached


def test_no_large_circle():
    reach = {name: reached_from(name) for name in graph()}
    circles = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph()}
    large = [sorted(circle) for circle in circles if len(circle) > LARGEST_CIRCLE]
    assert large == []


def test_the_reader_of_imports_sees_them_all():
    assert {"convzoo.registry", "convzoo.models", "convzoo.weights.load", "convzoo.profiling"} <= graph()["convzoo.zoo"]
    assert "convzoo.weights" not in graph()["convzoo"]  # they are for type checkers; the table imports by name
