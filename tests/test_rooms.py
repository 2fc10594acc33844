"""Which package may import which."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent


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


def test_imports_are_found_in_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr("test_rooms.ROOT", tmp_path)
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "b.py"
    path.write_text("import x.y\nfrom x import z as w\nfrom . import c\nfrom .d import e\ndef f():\n    import g\n")
    assert imported(path) == {"x.y", "x.z", "a.c", "a.d.e", "g"}
