"""Dataclasses read from the source of their modules, which are not imported.

What a command's flags are stands in dataclasses beside the code that uses torch and `transformers`, and in
`transformers.TrainingArguments` itself. Importing those takes seconds; `--help` and the refusal of a wrong flag need
only the fields. So the definitions that a dataclass is made of, and nothing else of its module, are taken from the
source and run.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

READABLE = ("distilfast", "transformers")  # packages whose modules are read; the standard library is imported


def stub(reference: str) -> type:
    """A dataclass of the fields of `reference`, "module:Class": their order, types, defaults and metadata, no methods.

    Its own fields stand before those of its bases. Raises `LookupError` for a class that the module does not define.
    """
    module, name = reference.split(":")
    found = Module.read(module)[name]
    assert isinstance(found, Fields), f"{reference} is no dataclass"
    group = {} if found.group is None else {"_argument_group_name": found.group}
    fields = [(each, type_, _copied(default)) for each, (type_, default) in found.fields.items()]
    return dataclasses.make_dataclass(name, fields, kw_only=True, namespace=group)


def package_folder(package: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def _copied(default: Any) -> Any:
    """A field of its own for each dataclass: a dataclass and the parser of its flags both write into its fields."""
    if not isinstance(default, dataclasses.Field):
        return default
    return dataclasses.field(
        default=default.default, default_factory=default.default_factory, init=default.init, metadata=default.metadata
    )


@dataclasses.dataclass
class Fields:
    """What a dataclass in a source file holds: {name: (type, default or field)}."""

    fields: dict[str, tuple[Any, Any]]
    group: str | None

    def __getattr__(self, name: str) -> Any:
        """The default of a field, as the class itself gives it: `RowRules.max_length`."""
        if name not in self.fields:
            raise AttributeError(name)
        return self.fields[name][1]


class Module(dict[str, Any]):
    """The names of a module, each worked out when it is asked for."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(__name__=name)
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.definitions: dict[str, ast.stmt] = {}
        for statement in _statements(ast.parse(path.read_text(encoding="utf-8")).body):
            for defined in _names(statement):
                self.definitions.setdefault(defined, statement)

    @staticmethod
    @functools.cache
    def read(name: str) -> Module:
        """The module called `name`, of a package that is installed."""
        package, *rest = name.split(".")
        place = package_folder(package).joinpath(*rest)
        file = place / "__init__.py"
        return Module(name, file if file.is_file() else place.with_suffix(".py"))

    def __missing__(self, name: str) -> Any:
        if name not in self.definitions:
            raise KeyError(name)
        value = self[name] = self._define(name, self.definitions[name])
        return value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self['__name__']} has no {name}") from None

    def evaluate(self, expression: ast.expr, names: dict[str, Any] | None = None) -> Any:
        """The value of an expression, with the names of a class body, if it stands in one."""
        code = compile(ast.Expression(expression), str(self["__name__"]), "eval")
        return eval(code, self, self if names is None else names)

    def _define(self, name: str, statement: ast.stmt) -> Any:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            return self._imported(name, statement)
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            assert statement.value is not None
            return self.evaluate(statement.value)
        if isinstance(statement, ast.ClassDef):
            if any("dataclass" in ast.unparse(decorator) for decorator in statement.decorator_list):
                return self._dataclass(statement)
            if not any(
                isinstance(base, type) and issubclass(base, Enum) for base in map(self.evaluate, statement.bases)
            ):
                return type(name, (), {})
        exec(compile(ast.Module([statement], []), str(self["__name__"]), "exec"), self, self)
        return dict.__getitem__(self, name)

    def _imported(self, name: str, statement: ast.Import | ast.ImportFrom) -> Any:
        alias = next(each for each in statement.names if (each.asname or each.name.partition(".")[0]) == name)
        if isinstance(statement, ast.Import):
            module, wanted = alias.name, None
        else:
            module, wanted = statement.module or "", alias.name
            if statement.level:
                parents = self.package.split(".")
                module = ".".join([*parents[: len(parents) - statement.level + 1], *filter(None, [module])])
        package = module.partition(".")[0]
        if package in READABLE and wanted is not None:
            inside = Module.read(module)
            return inside[wanted] if wanted in inside.definitions else Module.read(f"{module}.{wanted}")
        if package in sys.stdlib_module_names:
            imported = importlib.import_module(module)
            return imported if wanted is None else getattr(imported, wanted)
        return type(name, (), {})  # a type of another package: no flag has a value of it

    def _dataclass(self, node: ast.ClassDef) -> Fields:
        own: dict[str, tuple[Any, Any]] = {}
        body = _ClassBody(self)
        for statement in _statements(node.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                type_ = self.evaluate(statement.annotation, body)
                default = dataclasses.field() if statement.value is None else self.evaluate(statement.value, body)
                own[statement.target.id] = (type_, default)
            elif isinstance(statement, ast.Assign):
                body.assigned |= dict.fromkeys(_names(statement), statement.value)
        for base in map(self.evaluate, node.bases):
            if isinstance(base, Fields):
                own |= {name: inherited for name, inherited in base.fields.items() if name not in own}
        return Fields(own, body["_argument_group_name"] if "_argument_group_name" in body.assigned else None)


class _ClassBody(dict[str, Any]):
    """The names that a class body assigns, over those of its module; each worked out when it is asked for."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module
        self.assigned: dict[str, ast.expr] = {}

    def __missing__(self, name: str) -> Any:
        return self.module.evaluate(self.assigned[name]) if name in self.assigned else self.module[name]


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those under an `if` or `try` too: of two branches the first that defines a name counts.

    What such conditions ask for, torch and accelerate, is always installed.
    """
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements(statement.body)
            yield from _statements(statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _statements(statement.body)
        else:
            yield statement


def _names(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement defines."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (each.asname or each.name.partition(".")[0] for each in statement.names)
    elif isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id
