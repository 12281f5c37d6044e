"""The shape of the package: imports go one way, start-up is light, nothing can run a stranger's code."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kakusan"
MAX_LINES = 420

# Lower ranks never import higher ones; equals may, without cycles. The longest name that fits a module decides.
RANKS = (
    ("specs", "extras", "noise", "conditioning", "couplings", "gaussian", "files", "data.spec", "data.fit"),
    ("nn", "runtime"),
    (
        "schedules",
        "schedule_tables",
        "schedule_wrappers",
        "sde",
        "learned_schedule",
        "levels",
        "transitions",
        "parameterizations",
        "denoiser",
    ),
    (
        "objectives",
        "bound_objectives",
        "time_samplers",
        "samplers",
        "grids",
        "guidance",
        "operators",
        "pairs",
        "posteriors",
        "inversion",
        "likelihood",
        "oracles",
    ),
    ("model_folder", "run_folder", "stored_part"),
    (
        "data",
        "train",
        "config",
        "choices",
        "building",
        "likelihood.choices",
        "distill",
        "metrics",
        "codec",
        "report",
        "lab",
        "autoencoders",
        "encoders",
        "rivals",
    ),
    # A run draws its samples as the user will, by the pipeline, so these of the train room stand beside it.
    (
        "pipeline",
        "request",
        "guided",
        "recipes",
        "train.run",
        "prior",
        "designed",
        "train.previews",
        "train.reopen",
        "distill.models",
        "train.outlook",
        "train.probe",
        "train.plan",
    ),
    # Between a pipeline and the task that composes it.
    ("sweeping",),
    ("tasks", "interop"),
    ("cli", "serve", "studio", "__main__"),
)
RANK = {f"kakusan.{name}": rank for rank, names in enumerate(RANKS) for name in names}

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen"}


@dataclass(frozen=True)
class Import:
    """`source` imports `target` at `line`; `deferred`: inside a function."""

    source: str
    target: str
    line: int
    deferred: bool


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in files()}


def walk(node: ast.AST, deferred: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, and whether it runs only when a function is called. `if TYPE_CHECKING:` never runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # no import stands within an expression
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        inside = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inside
        yield from walk(child, inside)


def imports(name: str, tree: ast.AST, modules: set[str]) -> Iterator[Import]:
    """Imports of the package's own modules; `from package import thing` counts for the module `thing` if it is one."""
    for node, deferred in walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets = [
                full if (full := f"{node.module}.{alias.name}") in modules or alias.name[:2] == "__" else node.module
                for alias in node.names
            ]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "kakusan":
                yield Import(name, target, node.lineno, deferred)


def rank(name: str) -> int | None:
    while name:
        if name in RANK:
            return RANK[name]
        name = name.rpartition(".")[0]
    return None


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.fixture(scope="module")
def all_imports() -> list[Import]:
    return [edge for name, path in MODULES.items() for edge in imports(name, parse(path), set(MODULES))]


def wrong_way(edges: list[Import]) -> list[str]:
    complaints = []
    for edge in edges:
        if edge.source == "kakusan" or edge.target.startswith((edge.source + ".", "kakusan.__")):
            continue  # a package re-exports its own modules; __version__ is everybody's
        where = f"{edge.source}:{edge.line}"
        if edge.target == "kakusan":
            complaints.append(f"{where} imports the package itself; import from the room that owns it")
            continue
        below, above = rank(edge.target), rank(edge.source)
        if below is not None and above is not None and below > above:
            complaints.append(f"{where} imports {edge.target}, which stands above it")
    return complaints


def test_every_module_has_a_rank() -> None:
    unknown = [name for name in MODULES if name != "kakusan" and rank(name) is None]
    assert not unknown, f"give these a rank in RANKS: {unknown}"


def test_imports_go_one_way(all_imports: list[Import]) -> None:
    assert len(all_imports) > len(MODULES), "the test found next to no import: it looks in the wrong place"
    complaints = wrong_way(all_imports)
    assert not complaints, "\n".join(complaints)


def test_modules_do_not_import_each_other_in_a_circle(all_imports: list[Import]) -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for edge in all_imports:
        # A package's __init__ re-exports its own files, which is not a circle in any order that Python runs.
        if not edge.deferred and not edge.target.startswith(edge.source + ".") and edge.target != edge.source:
            graph[edge.source].add(edge.target)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError naming the circle


@pytest.mark.parametrize(
    ("source", "code", "bad"),
    [
        ("kakusan.nn.unet", "from kakusan.samplers.base import sample", True),
        ("kakusan.nn.unet", "def f():\n    import kakusan.cli", True),
        ("kakusan.schedules", "from kakusan import tasks", True),
        ("kakusan.denoiser", "import kakusan", True),
        ("kakusan.samplers.base", "from kakusan.denoiser import Denoiser", False),
        ("kakusan.nn.unet", "import typing\nif typing.TYPE_CHECKING:\n    import kakusan.cli", False),
    ],
)
def test_the_rule_itself_can_fail(source: str, code: str, bad: bool) -> None:
    edges = list(imports(source, ast.parse(code), {"kakusan.tasks", "kakusan.cli", "kakusan.samplers.base"}))
    assert bool(wrong_way(edges)) is bad


def dotted(node: ast.expr) -> str:
    """`a.b.c` of names and attributes alone, else nothing: so much quicker than unparsing all of a long call."""
    if isinstance(node, ast.Attribute):
        return f"{owner}.{node.attr}" if (owner := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST) -> list[str]:
    """Ways to run a stranger's code, or a shell, that `tree` contains."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            found += [f"{node.lineno}: torch.load" for a in node.names if a.name == "load"]
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if called in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: {called}(...)")
            for keyword in node.keywords:
                value = keyword.value
                on = not (isinstance(value, ast.Constant) and not value.value)
                if keyword.arg in {"shell", "allow_pickle"} and on:
                    found.append(f"{node.lineno}: {keyword.arg}={ast.unparse(value)}")
    return found


def test_nothing_can_run_code_from_a_file() -> None:
    found = {name: bad for name, path in MODULES.items() if (bad := dangers(parse(path)))}
    assert not found, f"these can run a stranger's code: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
    ],
)
def test_the_danger_list_can_fail(code: str) -> None:
    assert dangers(ast.parse(code))


def test_files_stay_short() -> None:
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text("utf-8").splitlines())) > MAX_LINES}
    assert not long, f"longer than {MAX_LINES} lines, so two files: {long}"


@pytest.mark.parametrize("module", ["kakusan", "kakusan.cli"])
def test_starting_up_is_light(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy', 'PIL', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"`import {module}` also imports {done.stderr.strip()}"


def test_training_and_sampling_do_without_the_command_line() -> None:
    code = (
        "import sys; sys.modules['tyro'] = None\n"
        "import kakusan.train.run, kakusan.pipeline, kakusan.metrics.evaluation\n"
        "from kakusan.config import TrainConfig, merge\n"
        "assert merge(TrainConfig(), {'data': {'size': 8}}).data.size == 8\n"
        # Two seconds of every start.
        "assert 'torch._dynamo' not in sys.modules, 'torch.compile is imported before anything is compiled'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
