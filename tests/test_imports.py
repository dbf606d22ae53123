"""Who imports whom, read from the source: one way only, what is heavy in few files, and printing in one."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bench"

# From the ground up; a module imports from its own layer and from those above it in this list.
LAYERS = [
    """bench errors records completer""",
    """catalog catalog.* api api.spec api.presets api.contract api.failures api.streams
    schema speed speed.spec vllm vllm.spec tasks tasks.template tasks.source tasks.form tasks.stem tasks.task config
    plan measures metrics stats stats.* writing writing.extract
    writing.extract.* writing.execution writing.answers writing.written
    engine engine.tree engine.pack engine.batches engine.deal engine.seq2seq engine.seq2seq.pack
    engine.seq2seq.estimate engine.masked engine.masked.pack engine.masked.estimate engine.levels engine.patterns
    engine.boundaries engine.estimate engine.rolling speed.points speed.repeating speed.load speed.figures""",
    """api.clients api.clients.* api.batches api.batches.* api.connect api.ledger api.pace api.pool api.completer
    api.parcels api.book api.desk api.batched
    tasks.prepare lmeval lmeval.index lmeval.asked lmeval.documents lmeval.tasks lmeval.job
    imports imports.formats imports.formats.* imports.archive imports.matching imports.fetching
    comparison comparison.pairing comparison.compared
    runs runs.* tasks.rows tasks.columns tasks.shots tasks.dataset tasks.chat tasks.prompts tasks.audit tasks.checking
    tasks.job model answering writing.generating
    telemetry telemetry.* hf measured team launch speed.folder speed.driving speed.asking
    engine.encode engine.seq2seq.encode engine.masked.encode engine.pipeline engine.allocator""",
    """engine.device engine.attention engine.attention.* engine.compiling engine.fuse engine.head engine.memory
    engine.widen engine.forward engine.plain engine.scorer engine.families engine.families.* engine.seq2seq.forward
    engine.seq2seq.plain engine.masked.forward engine.masked.plain engine.kinds engine.selfcheck
    engine.tokenwise engine.codec engine.generate engine.continuous models models.* speed.steps""",
    """route
    session watching scoring local_model api.model api.likelihoods speed.measure speed.scoring speed.local
    speed.served vllm.engine vllm.selfcheck vllm.rating vllm.model""",
    """imports.importing comparison.compare sources asked
    runner speed.runner verify dryrun doctor report report.*
    lmeval.arguments lmeval.command lmeval.export lmeval.model""",
    """arguments cli __main__""",
]
TENSORS = [
    "engine.seq2seq.*",
    "engine.masked.*",
    "engine.attention.*",
    "engine.compiling",
    "engine.families",
    "engine.families.*",
    "engine.fuse",
    "engine.head",
    "engine.memory",
    "engine.widen",
    "engine.device",
    "engine.forward",
    "engine.plain",
    "engine.scorer",
    "engine.generate",
    "engine.continuous",
    "engine.tokenwise",
]
ALLOWED = {
    "torch": [
        *TENSORS,
        "engine.selfcheck",
        "hf",
        "models.*",
        "telemetry.matmul",
        "telemetry.bandwidth",
        "speed.steps",
        "speed.measure",
        "speed.local",
        "session",
        "watching",
        "route",
        "lmeval.model",
        "doctor",
        "team",
        "launch",
    ],
    "transformers": ["hf", "engine.families.*", "engine.fuse"],  # after hf, for classes of single architectures
    "rich.progress": ["report.progress"],
    "argparse": ["arguments", "cli", "lmeval.command"],  # `cli` for the name of what is parsed
    "pynvml": ["telemetry.machine", "telemetry.nvml"],
    "huggingface_hub": ["tasks.rows", "models.hub"],
    "datasets": [],
    "lm_eval": ["lmeval.*"],
    "vllm": ["vllm.engine"],
    "requests": [],
    "httpx": [],
    "urllib": ["api.spec", "api.clients.gemini", "imports.fetching"],  # to take an address apart; to see proxies
    "openai": ["api.clients.openai"],
    "anthropic": ["api.clients.anthropic"],
    "google": ["api.clients.gemini"],
    "genai_prices": ["catalog.prices"],
    "asyncio": [
        "api.clients.echo",
        "api.desk",
        "api.ledger",
        "api.pace",
        "api.pool",
        "api.completer",
        "speed.driving",
        "speed.asking",
        "speed.served",
    ],
    "matplotlib": ["report.plots", "report.drawing.*"],
    "pickle": [],
    "scipy": ["stats.*"],
    "statsmodels": ["stats.*"],
}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "bench"


MODULES = {module_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str) -> Iterator[str]:
    """Every module that a module imports, wherever in it; `from a import b` gives a, and a.b where that is a module."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    names = {one.removeprefix("bench.") for one in imported(name) if one.split(".")[0] == "bench"}
    return {one for one in names if one in MODULES}


def layer_of(name: str) -> int:
    found = [number for number, patterns in enumerate(LAYERS) if any(fnmatch(name, one) for one in patterns.split())]
    assert len(found) == 1, f"{name} must stand in exactly one layer of tests/test_imports.py"
    return found[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    upwards = {other for other in own_imports(name) if layer_of(other) > layer_of(name)}
    assert not upwards


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: own_imports(name) - {"bench", name} for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph) - 1  # raises CycleError


@pytest.mark.parametrize("package", ALLOWED)
def test_what_is_heavy_is_imported_in_few_places(package: str) -> None:
    found = {
        name
        for name in MODULES
        if any(other == package or other.startswith(f"{package}.") for other in imported(name))
        and not any(fnmatch(name, pattern) for pattern in ALLOWED[package])
    }
    assert not found


def test_only_the_command_line_prints() -> None:
    printing = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"cli"}


def test_help_tasks_and_a_mistake_in_a_plan_need_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("models: [source: fake]\ntasks: [pocket]\nengin: {}\n")
    heavy = ["torch", "transformers", "tokenizers", "datasets", "pandas", "pyarrow", "lm_eval", "scipy"]
    heavy += ["matplotlib", "statsmodels", "rich.progress", "openai", "anthropic", "google.genai", "genai_prices"]
    script = f"""
import contextlib, io, json, sys
from bench.cli import main
found = []
for arguments in (["--help"], ["run", {str(tmp_path / "plan.yaml")!r}], ["tasks"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = main(arguments)
        except SystemExit as leaving:
            code = leaving.code
    found.append([code, [name for name in {heavy} if name in sys.modules]])
print(json.dumps(found))
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout) == [[0, []], [2, []], [0, []]]
