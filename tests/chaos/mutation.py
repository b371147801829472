"""The table of mutants.txt: a function, method or class of `lab` by its name, and what is replaced inside it.

A row is `name | definition | test`. Its `-` lines are an expression or statements that occur once in the definition;
its `+` lines replace them. Both are compared as syntax trees, so that formatting, comments and line numbers do not
matter. `...` stands for one thing; in a list, for any number: `f(a, ...)` for all other arguments, keywords too, and
`for x in y: ...` for the body. The `...` of the `+` lines are filled in the same order. Without `-` lines, the `+`
lines are added at the end of the definition; without `+` lines, the statements are removed.

A definition is found in whatever file it is. Where several have a name, the end of the module's name is put before it:
`base.Task`. A module (`figures.table`) and a name that is assigned in one (`SPECIAL`) are definitions too.
"""

import ast
import textwrap
from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
CODE = ROOT / "src/lab"


class Mutant(NamedTuple):
    name: str
    definition: str
    tests: tuple[str, ...]  # below tests
    old: str = ""
    new: str = ""


class DoesNotApplyError(Exception):
    """A row of mutants.txt that does not fit the code."""


class Definition(NamedTuple):
    file: Path  # below src/lab
    tree: ast.Module
    node: Any
    name: str  # inside its module
    full: str


class Place(NamedTuple):
    """Where a definition has some code: in a list of a node's field, or as the field itself."""

    parent: ast.AST
    field: str
    start: int | None
    rest: list[list[Any]]  # what each `...` stands for


def table() -> Iterator[Mutant]:
    text = Path(__file__).with_name("mutants.txt").read_text()
    for block in text.split("\n\n"):
        head, *lines = [line for line in block.splitlines() if not line.startswith("#")] or [""]
        if head:
            name, definition, test = head.split(" | ")
            old, new = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
            yield Mutant(name, definition, (test,), old, new)


def mutate(mutant: Mutant) -> tuple[Path, str]:
    """The file that a mutant changes, and its text with the change."""
    where = _named(mutant.definition)
    old, new = ast.parse(textwrap.dedent(mutant.old)).body, ast.parse(textwrap.dedent(mutant.new)).body
    if not old:
        if not isinstance(where.node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            raise DoesNotApplyError("it has no body to add to: give `-` lines")
        parent, field, num, rest = where.node, "body", 0, []
        start: int | None = len(where.node.body)
    else:
        if is_expression := all(len(code) == 1 and isinstance(code[0], ast.Expr) for code in (old, new)):
            old, new = [old[0].value], [new[0].value]
        parent, field, start, rest = _once(where, old)
        num = len(old)
        new = new if is_expression or new else [ast.Pass()]
    before = getattr(parent, field)
    try:
        put = [ast.fix_missing_locations(node) for node in _filled(new, rest)]
    except IndexError:
        raise DoesNotApplyError("its + lines have more `...` than its - lines") from None
    setattr(parent, field, put[0] if start is None else [*before[:start], *put, *before[start + num :]])
    try:
        return where.file, ast.unparse(where.tree)
    finally:
        setattr(parent, field, before)


def check(mutant: Mutant) -> str:
    """Why a mutant does not apply, or nothing."""
    try:
        file, text = mutate(mutant)
        compile(text, file, "exec")
    except (DoesNotApplyError, SyntaxError) as error:
        return f"{mutant.name} | {mutant.definition}: {error}"
    for test in mutant.tests:
        path, *names = test.partition("[")[0].split("::")
        file = ROOT / "tests" / path
        suites = [] if len(names) == 1 else (ROOT / "src/lab/testing").glob("*.py")  # a class inherits its tests
        if not file.is_file() or not any(f"def {names[-1]}(" in each.read_text() for each in (file, *suites)):
            return f"{mutant.name} | {mutant.definition}: there is no test {test}"
    return ""


@cache
def _definitions() -> list[Definition]:
    found = []
    for path in sorted(CODE.rglob("*.py")):
        file, tree = path.relative_to(CODE), ast.parse(path.read_text())
        module = ".".join(["lab", *file.with_suffix("").parts]).removesuffix(".__init__")
        found.append(Definition(file, tree, tree, "", module))
        found += [Definition(file, tree, node, name, f"{module}.{name}") for name, node in _inside(tree)]
    return found


def _inside(node: Any, above: str = "") -> Iterator[tuple[str, ast.AST]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield above + inner.name, inner
            yield from _inside(inner, f"{above}{inner.name}.")
        elif isinstance(inner, ast.Assign | ast.AnnAssign):
            for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                if isinstance(target, ast.Name) and not isinstance(node, ast.FunctionDef):
                    yield above + target.id, inner
        elif isinstance(inner, ast.If | ast.Try | ast.With):
            yield from _inside(inner, above)


def _named(name: str) -> Definition:
    """The only definition of a name, which may have some or all of its module before it."""
    named = [d for d in _definitions() if f".{d.full}".endswith(f".{name}") and len(name) >= len(d.name)]
    found = [d for d in named if d.name] or named
    if len(found) == 1:
        return found[0]
    if found:
        raise DoesNotApplyError(
            f"it is the name of several: {', '.join(d.full for d in found)}; put the module before it"
        )
    last = f".{name.rpartition('.')[2]}"
    every = [d.full for d in _definitions() if d.name]
    near = [path for path in every if path.endswith(last)] or get_close_matches(name, every, 3, 0)
    raise DoesNotApplyError(f"src/lab has no such definition; near: {', '.join(near)}")


def _once(where: Definition, old: list[Any]) -> Place:
    """The only place where a definition has some code."""
    found = list(_places(where.node, old))
    if len(found) == 1:
        return found[0]
    text = "\n".join(map(ast.unparse, old))
    if found:
        raise DoesNotApplyError(f"it has this {len(found)} times, not once:\n{text}")
    others = [d for d in _definitions() if any(_places(d.node, old))]
    if others:
        above = {(d.file, d.name.rpartition(".")[0]) for d in others if d.name}
        inner = [d.full for d in others if (d.file, d.name) not in above]
        raise DoesNotApplyError(f"it has no\n{text}\nbut there is one in {', '.join(inner)}")
    kind = type(old[0])
    near = [ast.unparse(node) for node in ast.walk(where.node) if type(node) is kind]
    near.sort(key=lambda other: SequenceMatcher(None, other, text).ratio())
    raise DoesNotApplyError(f"it has no\n{text}\n" + (f"nearest:\n{near[-1]}" if near else f"nor any {kind.__name__}"))


def _places(definition: ast.AST, old: list[Any]) -> Iterator[Place]:
    for parent in ast.walk(definition):
        for field, value in ast.iter_fields(parent):
            if not isinstance(value, list):
                if _match(old, [value], rest := []):
                    yield Place(parent, field, None, rest)
                continue
            for start in range(len(value) - len(old) + 1):
                if _match(old, value[start : start + len(old)], rest := []):
                    yield Place(parent, field, start, rest)


def _is_rest(pattern: Any) -> bool:
    value = pattern.value if isinstance(pattern, ast.Expr) else pattern
    return isinstance(value, ast.Constant) and value.value is ...


def _takes_rest(pattern: Any) -> bool:
    return isinstance(pattern, ast.Call) and any(map(_is_rest, pattern.args))


def _match(pattern: Any, node: Any, rest: list[list[Any]]) -> bool:
    """Whether code is as a pattern says; what each `...` stands for is put into `rest`."""
    if isinstance(pattern, list):
        if not isinstance(node, list):
            return False
        at = next((i for i, item in enumerate(pattern) if _is_rest(item)), len(pattern))
        after = pattern[at + 1 :]
        end = len(node) - len(after)
        if end < at or at == len(pattern) != len(node):
            return False
        if not all(_match(p, n, rest) for p, n in zip(pattern[:at], node[:at], strict=True)):
            return False
        if at < len(pattern):
            rest.append(node[at:end])
        return all(_match(p, n, rest) for p, n in zip(after, node[end:] if after else [], strict=True))
    if _is_rest(pattern):
        rest.append([node])
        return isinstance(node, ast.AST)
    if type(pattern) is not type(node):
        return False
    if not isinstance(pattern, ast.AST):
        return bool(pattern == node)
    other = []
    if _takes_rest(pattern):
        named = [keyword.arg for keyword in pattern.keywords]
        other = [keyword for keyword in node.keywords if keyword.arg not in named]
        order = sorted((k for k in node.keywords if k.arg in named), key=lambda k: named.index(k.arg))
        node = ast.Call(node.func, node.args, order)
    if not all(_match(getattr(pattern, field), getattr(node, field), rest) for field in pattern._fields):
        return False
    if _takes_rest(pattern):
        rest.append(other)
    return True


def _filled(pattern: Any, rest: list[list[Any]]) -> Any:
    """A pattern with its `...` replaced by what they stand for."""
    if isinstance(pattern, list):
        return [n for item in pattern for n in (rest.pop(0) if _is_rest(item) else [_filled(item, rest)])]
    if _is_rest(pattern):
        return rest.pop(0)[0]
    if not isinstance(pattern, ast.AST):
        return pattern
    node = type(pattern)(**{field: _filled(getattr(pattern, field), rest) for field in pattern._fields})
    if _takes_rest(pattern):
        node.keywords += rest.pop(0)
    return node
