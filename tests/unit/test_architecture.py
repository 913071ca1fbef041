"""The rules of what may import what, and of what may happen where, read from the source."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = ("lifecycle", "exec", "terminal", "metrics", "gateway")
TABLES = {f"services.{service}.tables" for service in SERVICES}

# What reaches out of the process: files, sockets, clocks, other programs.
IO_LIBRARIES = set(
    """
    alembic asyncio asyncpg concurrent ctypes fastapi fcntl grpc http httpx io multiprocessing nats os psutil
    pydantic_settings random requests secrets select selectors shutil signal socket sqlalchemy starlette subprocess
    tempfile threading time urllib.request uvicorn uvloop websockets
    """.split()
)
IO_METHODS = set(
    "open read_text read_bytes write_text write_bytes stat exists iterdir glob unlink mkdir rename".split()
)


@dataclass(frozen=True)
class Import:
    """`names` are those taken from the module; empty for `import module`."""

    module: str
    names: tuple[str, ...]

    def is_of(self, *packages: str) -> bool:
        """Whether it is of one of these or what is in them; `from a import b` is of a and of a.b."""
        modules = (self.module, *(f"{self.module}.{name}" for name in self.names))
        return any(module == package or module.startswith(f"{package}.") for module in modules for package in packages)


class Module:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = path.relative_to(ROOT / "services").as_posix()
        self.owner = path.relative_to(ROOT / "services").parts[0]  # common, or a service
        self.lines = path.read_text().splitlines()
        self.tree = ast.parse(path.read_text())

    @cached_property
    def imports(self) -> list[Import]:
        """Every one, wherever in the file."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, ()) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.where}: imports are absolute"
                found.append(Import(node.module or "", tuple(alias.name for alias in node.names)))
        return found

    @property
    def is_pure(self) -> bool:
        """It says so itself, at the beginning of its docstring."""
        beginning = (ast.get_docstring(self.tree) or "").split("\n\n")[:2]
        return re.search(r"\(pure\)|\bPure\.", " ".join(beginning)) is not None

    def importing(self, *packages: str) -> list[str]:
        return [f"{self.where}: {one.module}" for one in self.imports if one.is_of(*packages)]

    def calls(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


MODULES = [Module(path) for path in sorted((ROOT / "services").rglob("*.py")) if "migrations" not in path.parts]


def test_no_service_imports_another_and_common_imports_none() -> None:
    found = []
    for module in MODULES:
        found += module.importing(*(f"services.{service}" for service in SERVICES if service != module.owner))
    assert found == []


def test_the_product_imports_neither_its_tests_nor_its_bench() -> None:
    assert [line for module in MODULES for line in module.importing("tests", "bench")] == []


def test_only_common_containerd_speaks_containerd() -> None:
    others = [module for module in MODULES if not module.where.startswith("common/containerd/")]
    assert [line for module in others for line in module.importing("containerd")] == []


def test_generated_code_of_ours_is_in_servicers_requests_and_clients_alone() -> None:
    found = []
    for module in MODULES:
        generated = [one for one in module.imports if one.is_of("hzel")]
        found += [f"{module.where}: {one.module}" for one in generated if not may_import_generated(module, one)]
    assert found == []


def may_import_generated(module: Module, one: Import) -> bool:
    name = module.path.name
    if module.owner == "common":
        # Events; and what services serve beside their own API: figures, and what goes on in containers.
        return (module.where == "common/events.py" and one.is_of("hzel.events")) or (
            module.where.startswith("common/rpc/") and one.is_of("hzel.figures", "hzel.activity")
        )
    if module.owner == "gateway":
        return name == "clients.py" or name.endswith("_client.py")
    if not one.is_of(f"hzel.{module.owner}"):
        return False
    if name == "__main__.py":
        # Wiring: the servicer is given to the server.
        return all(re.fullmatch(r"add_\w+_to_server", taken) for taken in one.names) and one.names != ()
    return name in ("servicer.py", "requests.py")


def test_tables_are_for_who_owns_them() -> None:
    found = []
    for module in MODULES:
        found += module.importing(*(TABLES - {f"services.{module.owner}.tables"}))
    assert found == []


def test_a_pure_module_imports_no_io_library_and_touches_no_file() -> None:
    pure = [module for module in MODULES if module.is_pure]
    assert [line for module in pure for line in module.importing(*IO_LIBRARIES)] == []
    assert [(module.where, called) for module in pure for called in module.calls() if called in IO_METHODS] == []


def test_these_are_pure_and_say_so() -> None:
    expected = """
        common/containerd/seccomp.py common/containerd/spec.py common/counters.py common/layout.py exec/queue.py
        gateway/event_frames.py gateway/event_positions.py gateway/event_window.py gateway/job_frames.py
        gateway/pagination.py gateway/prometheus.py gateway/strict_json.py gateway/terminal_frames.py
        lifecycle/ends.py lifecycle/idleness.py lifecycle/numbering.py lifecycle/reasons.py
        lifecycle/restart_policy.py lifecycle/state.py metrics/cgroups.py metrics/history.py metrics/links.py
        metrics/sample.py terminal/scrollback.py
    """
    assert set(expected.split()) - {module.where for module in MODULES if module.is_pure} == set()


def test_nothing_happens_at_import() -> None:
    """A module defines things; what it runs is behind `if __name__ == "__main__"`."""
    definitions = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign
    definitions |= ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    found = []
    for module in MODULES:
        for node in module.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_guarded = isinstance(node, ast.If) and ast.unparse(node.test) in (
                "__name__ == '__main__'",
                "TYPE_CHECKING",
            )
            if not (isinstance(node, definitions) or is_docstring or is_guarded):
                found.append(f"{module.where}:{node.lineno}")
    assert found == []


def test_whoever_catches_everything_makes_something_of_it() -> None:
    """`except Exception` is for those who turn any error into something: they do more than to log it, or say in a
    comment why that is enough. A bare `except` is for nobody."""
    found = []
    for module in MODULES:
        handlers = [node for node in ast.walk(module.tree) if isinstance(node, ast.ExceptHandler)]
        found += [f"{module.where}:{node.lineno}" for node in handlers if not _is_excused(module, node)]
    assert found == []


def _is_excused(module: Module, node: ast.ExceptHandler) -> bool:
    if node.type is None or ast.unparse(node.type) not in ("Exception", "BaseException"):
        return node.type is not None
    does_more = any(isinstance(inner, ast.Raise | ast.Return | ast.Assign | ast.Await) for inner in ast.walk(node))
    return does_more or any("# " in line for line in module.lines[node.lineno - 1 : node.body[-1].end_lineno])


def test_nothing_is_called_by_a_word_that_says_nothing() -> None:
    empty = re.compile(r"manager|helper|utils?$|misc", re.IGNORECASE)
    classes = [
        f"{module.where}: {node.name}"
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and empty.search(node.name)
    ]
    assert classes == []
    assert [module.where for module in MODULES if empty.search(module.path.stem)] == []


def test_every_module_says_what_it_is() -> None:
    assert [module.where for module in MODULES if module.lines and not ast.get_docstring(module.tree)] == []


def test_every_service_has_the_same_bones() -> None:
    for service in SERVICES:
        folder = ROOT / "services" / service
        assert (folder / "__main__.py").exists()
        assert service == "gateway" or (folder / "servicer.py").exists()
        assert (folder / "tables.py").exists() == (folder / "migrations/env.py").exists()
