"""Rules of the source tree that no linter states."""

import ast
import importlib.metadata
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("proto", "store", "control", "node", "net", "cli", "lab")
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70


def sources() -> list[Path]:
    """Every Python file of ours, generated stubs apart."""
    folders = [*PACKAGES, "bench", "tests"]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "_pb2" not in path.name)


def modules() -> list[Path]:
    """The sources that are imported by programs."""
    return [path for path in sources() if path.relative_to(ROOT).parts[0] in PACKAGES]


def test_package_names_belong_to_us_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    foreign = {name: owners[name] for name in PACKAGES if set(owners.get(name, ())) - {"raftsman"}}
    assert not foreign, f"another distribution ships a package of our name: {foreign}"


def test_modules_are_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: lines for name, lines in lengths.items() if lines > MODULE_LINES_MAX}


def test_functions_are_small() -> None:
    long: dict[str, int] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [path for path in sources() if drawers & set(path.relative_to(ROOT).with_suffix("").parts)]


def test_every_top_folder_has_a_readme() -> None:
    folders = ("proto", "store", "control", "node", "net", "cli", "lab", "bench", "tests", "vagrant")
    missing = [folder for folder in folders if not (ROOT / folder / "README.md").is_file()]
    assert not missing


def test_test_folders_are_not_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_stubs_are_those_of_the_definitions(tmp_path: Path) -> None:
    import sys

    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", ROOT / ".ci/stubs", tmp_path], cwd=ROOT, env=environment, check=True, capture_output=True)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    kept = {
        path.relative_to(ROOT): path.read_bytes()
        for path in (ROOT / "proto").rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    assert made.keys() == kept.keys()
    assert not [str(path) for path in made if made[path] != kept[path]], "run .ci/stubs and commit what it makes"


def test_import_contracts_hold() -> None:
    import sys

    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr)
