"""The rules of CONTRIBUTING.md that a machine can check by reading the source."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "cryogimbal"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400

# A conversion of a value between degrees and radians, spelled any of the usual ways; a constant
# written as radians(30.0) is none.
DEGREES = re.compile(
    r"\b(deg2rad|rad2deg|radians|degrees)\s*\((?!\s*[\d.]+\s*\))"
    r"|degrees=True|\bpi\s*/\s*180|\b180(\.0)?\s*/\s*(\w+\.)?pi\b"
)
STAR_COLUMN = re.compile(r"\b_?rln[A-Z]\w+")


def name_of(module: Path) -> str:
    return module.relative_to(SOURCE).as_posix()


def dotted(module: Path) -> str:
    parts = module.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstring_nodes(tree: ast.Module) -> set[int]:
    """Identities of the bare strings in a tree: docstrings and attribute docstrings."""
    expressions = (node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {id(e.value) for e in expressions if isinstance(e.value, ast.Constant)}


def code_strings(module: Path) -> Iterator[tuple[int, str]]:
    """Line and value of every string that is not a docstring."""
    tree = ast.parse(module.read_text())
    prose = docstring_nodes(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def code_text(module: Path) -> str:
    """The module without comments and docstrings."""
    tree = ast.parse(module.read_text())
    prose = docstring_nodes(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) in prose:
            node.value = ""
    return ast.unparse(tree)


def offenders(is_bad: Callable[[Path], bool], *, allowed: tuple[str, ...] = ()) -> list[str]:
    """Modules outside the allowed files and folders for which ``is_bad`` holds."""
    return [
        name_of(module)
        for module in MODULES
        if not name_of(module).startswith(allowed) and is_bad(module)
    ]


def test_the_rules_see_the_package() -> None:
    assert {"fourier/transforms.py", "rotations.py", "errors.py"} <= set(map(name_of, MODULES))


def test_modules_are_short() -> None:
    assert offenders(lambda module: len(module.read_text().splitlines()) > MAX_LINES) == []


def test_only_transforms_reorders_frequencies() -> None:
    def reorders(module: Path) -> bool:
        return "fftshift" in code_text(module)

    assert reorders(SOURCE / "fourier" / "transforms.py")
    assert offenders(reorders, allowed=("fourier/transforms.py",)) == []


def test_star_columns_are_named_only_in_io() -> None:
    def names_a_column(module: Path) -> bool:
        return any(STAR_COLUMN.search(text) for _, text in code_strings(module))

    assert offenders(names_a_column, allowed=("io/",)) == []


def test_degrees_become_radians_only_at_the_border() -> None:
    def converts(module: Path) -> bool:
        return DEGREES.search(code_text(module)) is not None

    assert converts(SOURCE / "rotations.py")
    # evaluation.json promises degrees, so that the scores are made in them.
    borders = ("rotations.py", "io/", "evaluation/pose_error.py", "report/", "cli/")
    assert offenders(converts, allowed=borders) == []


def test_there_is_no_utils() -> None:
    vague = re.compile(r"(^|_)(utils?|misc|helpers?|common)(_|$)")
    assert [name_of(m) for m in MODULES if any(map(vague.search, (m.stem, m.parent.name)))] == []


def test_only_the_command_line_prints() -> None:
    def prints(module: Path) -> bool:
        calls = (n for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.Call))
        return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)

    assert offenders(prints, allowed=("cli/",)) == []


def test_chance_and_dtype_are_never_global() -> None:
    forbidden = ("torch.manual_seed", "set_default_dtype", "random.seed(", "set_default_device")

    def sets_globals(module: Path) -> bool:
        return any(name in code_text(module) for name in forbidden)

    assert offenders(sets_globals) == []


def test_every_module_says_what_it_is_for() -> None:
    assert offenders(lambda module: not ast.get_docstring(ast.parse(module.read_text()))) == []


def test_public_names_are_documented() -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bare = [
        f"{name_of(module)}:{node.lineno} {node.name}"
        for module in MODULES
        for node in ast.parse(module.read_text()).body
        if isinstance(node, definitions)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


def test_every_layer_is_in_architecture() -> None:
    page = (REPOSITORY / "ARCHITECTURE.md").read_text()
    rooms = [p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in page] == []


@pytest.fixture(scope="module")
def import_log() -> str:
    """Import every module in one fresh interpreter that has no GPU, no PATH and strict warnings."""
    lines = [f"import {dotted(m)}" for m in MODULES if m.name != "__main__.py"]
    lines += ["import torch", "print('cuda started:', torch.cuda.is_initialized())"]
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", "\n".join(lines)],
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_gpu_or_other_programs(import_log: str) -> None:
    assert import_log.splitlines()[-1] == "cuda started: False"


def test_imports_say_nothing(import_log: str) -> None:
    assert len(import_log.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.deg2rad(x)", True),
        ("math.radians(tilt)", True),
        ("LIMIT_RAD = math.radians(30.0)", False),
        ("x * math.pi / 180", True),
        ("x * 180 / numpy.pi", True),
        ("Rotation.from_euler('ZYZ', x, degrees=True)", True),
        ("degrees = error_deg.median()", False),
        ("tilt = math.pi / 2 - latitude", False),
    ],
)
def test_the_search_for_degrees_finds_them(code: str, found: bool) -> None:
    assert (DEGREES.search(code) is not None) is found
