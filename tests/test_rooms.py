"""Which package may import which, and in which order the rooms of the library stand."""

import ast
import pathlib
import subprocess
import sys

import pytest

import recjax

ROOT = pathlib.Path(__file__).parent.parent
# A room imports rooms before it only.
ORDER = (
    *("errors", "trees", "members", "machine", "arrays", "ids", "summary", "files", "provenance"),
    *("losses", "metrics"),
    *("quantize", "prune", "embed", "compress"),
    *("models", "data"),
    *("rows", "train", "devices", "checkpoint", "grid"),
    *("evaluate", "teacher", "families", "study", "tasks"),
    *("artifact", "serve", "report", "pipeline", "cli"),
)


def imported(path):
    """The full names of all modules and of all names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level]) + "." if node.level else ""
            found |= {f"{package}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names}
    return found


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("recjax", {"experiments", "benchmarks", "tests"}),
        ("experiments", {"benchmarks", "tests"}),
        ("benchmarks", {"experiments", "tests"}),
    ],
)
def test_a_package_imports_no_other_one(package, others):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): name for path in files for name in imported(path) if name.split(".")[0] in others
    }
    assert not wrong


def rooms():
    """Name of each room and its files."""
    top = [path for path in (ROOT / "recjax").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    files = {path.stem: [path] if path.suffix else sorted(path.rglob("*.py")) for path in top}
    return {room: found for room, found in files.items() if room != "__init__"}


def imports_of_rooms():
    """``(file, room, other room, the rest of the name)`` of every import of one room by another."""
    for room, files in rooms().items():
        for path in files:
            for name in imported(path):
                package, other, *rest = [*name.split("."), ""]
                if package == "recjax" and other and other != room:
                    yield str(path.relative_to(ROOT)), room, other, rest


def test_the_order_names_every_room():
    assert sorted(ORDER) == sorted(rooms()) == sorted(recjax._ROOMS)


def test_rooms_import_those_before_them():
    found = list(imports_of_rooms())
    assert len({(room, other) for _, room, other, _ in found}) > 50
    assert not [(path, other) for path, room, other, _ in found if ORDER.index(other) >= ORDER.index(room)]


def test_private_parts_stay_in_their_room():
    private = {(room, other) for _, room, other, rest in imports_of_rooms() if any(part[:1] == "_" for part in rest)}
    assert private <= {("teacher", "data")}  # a teacher's tables are read as logs are


def test_flax_is_imported_by_models_alone():
    users = {room for room, files in rooms().items() for path in files if "flax" in str(imported(path))}
    assert users == {"models"}


@pytest.mark.parametrize("module", ["recjax", "recjax.artifact", "recjax.cli"])
def test_what_serves_imports_nothing_heavy(module):
    code = f"import sys, {module}; print(*{{'jax', 'flax', 'optax', 'polars', 'scipy', 'orbax'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_imports_are_found_in_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr("test_rooms.ROOT", tmp_path)
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "b.py"
    path.write_text("import x.y\nfrom x import z as w\nfrom . import c\nfrom .d import e\ndef f():\n    import g\n")
    assert imported(path) == {"x.y", "x.z", "a.c", "a.d.e", "g"}
