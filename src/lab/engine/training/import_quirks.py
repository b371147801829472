"""Workarounds that apply while torch and Lightning are imported; this module imports neither.

torch, torchvision, torchmetrics and Lightning import modules that few runs use. A `StandIn` takes the place of such a
module in `sys.modules`, and imports it when a program uses it: what works without lab works with it.

`tests/system/test_imports.py` has a test for each that fails once the workaround is no longer needed.
"""

import functools
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import FunctionType, ModuleType
from typing import Any

# By module, the names that others take from it while they are imported. Any other name imports the module.
COMPILER = {
    "torch._dynamo": ("OptimizedModule",),
    "torch._dynamo.utils": ("is_compile_supported",),
    "torch._inductor": (),
    "torch._inductor.config": (),
}
OPTIONAL = {
    "scipy.signal": ("hamming",),
    "torch.utils.flop_counter": ("FlopCounterMode",),
    "torchmetrics.utilities.plot": (
        "_AX_TYPE", "_CMAP_TYPE", "_PLOT_OUT_TYPE", "plot_confusion_matrix", "plot_curve", "plot_single_or_multi_val",
    ),
    "torchvision": ("transforms",),
    "torchvision.models": ("VGG16_Weights", "resnet50", "vgg16"),
    "transformers": ("AutoModel", "AutoModelForMaskedLM", "AutoTokenizer", "CLIPModel", "CLIPProcessor"),
}  # fmt: skip


@contextmanager
def light_imports() -> Iterator[None]:
    """Import torch, torchmetrics and Lightning without what few runs use, and other modules without garbage collection.

    No module that is being imported is garbage. Later collections leave the modules out.

    Saves 1.2 of 2.9 CPU-seconds of `import lab.train`; `import torch` alone takes 1.3 (medians of 3; torch 2.15,
    torchvision 0.29, torchmetrics 1.9.0, Lightning 2.6.6).
    """
    gc.disable()
    try:
        postpone_compiler()
        with stand_ins(OPTIONAL):
            import lightning  # noqa: F401  and with it torchmetrics
        yield
    finally:
        gc.freeze()
        gc.enable()


def postpone_compiler() -> None:
    """Import `torch._dynamo` and `torch._inductor` when something is compiled or exported.

    Lightning and torchvision import them for a name each. Each optimizer imports them to call `disable` and
    `graph_break`, which have no effect before something is compiled. `torch.use_deterministic_algorithms` imports them
    to set an attribute.
    """
    if "torch._dynamo" not in sys.modules:
        sys.meta_path.insert(0, Submodules())
        plant(COMPILER)
        sys.modules["torch._dynamo"].names.update(disable=disable, graph_break=graph_break)
        sys.modules["torch._inductor"].names.update(config=sys.modules["torch._inductor.config"])


def graph_break(msg: str = "") -> None:
    """Stand in for `torch._dynamo.graph_break`."""
    if compiler := loaded("torch._dynamo"):
        compiler.graph_break(msg)


def disable(fn: Any = None, recursive: bool = True, **arguments: Any) -> Any:
    """Stand in for `torch._dynamo.disable`: a function is wrapped when something is compiled, if ever."""
    if fn is None:
        return functools.partial(disable, recursive=recursive, **arguments)
    if loaded("torch._dynamo") or not isinstance(fn, FunctionType):
        return load("torch._dynamo").disable(fn, recursive, **arguments)
    disabled: Callable[..., Any] | None = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None and (compiler := loaded("torch._dynamo")):
            disabled = compiler.disable(fn, recursive, **arguments)
        return (disabled or fn)(*args, **kwargs)

    return call


@contextmanager
def stand_ins(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Let stand-ins take the place of modules while others are imported."""
    plant(modules)
    try:
        yield
    finally:
        for name in modules:
            remove(name)


def plant(modules: Mapping[str, Sequence[str]]) -> None:
    """Put a stand-in into `sys.modules` for each of the modules that is installed and not imported."""
    for name, names in modules.items():
        root = name.partition(".")[0]
        if name not in sys.modules and (root in sys.modules or find_spec(root)):
            sys.modules[name] = StandIn(name, names)


def remove(name: str) -> None:
    if isinstance(sys.modules.get(name), StandIn):
        del sys.modules[name]


def loaded(name: str) -> Any:
    """The module, or None if it is not imported, or not to its end."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return None if isinstance(module, StandIn) or getattr(spec, "_initializing", False) else module


def load(name: str) -> Any:
    """Import a module in place of its stand-in, and all others of its package. What was assigned to them is kept."""
    root = name.partition(".")[0]
    stand_ins = [module for module in sys.modules.values() if isinstance(module, StandIn) and module.root == root]
    for stand_in in stand_ins:
        remove(stand_in.__name__)
    module = import_module(name)
    for stand_in in stand_ins:
        for attribute in vars(stand_in).keys() - stand_in.own:
            setattr(import_module(stand_in.__name__), attribute, vars(stand_in)[attribute])
    return module


class StandIn(ModuleType):
    """A module that is not imported yet.

    Args:
        name: of the module.
        names: that others may take from it without importing it.
    """

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []
        self.root = name.partition(".")[0]
        self.names: dict[str, Any] = {one: Name(name, one) for one in names}
        self.own = {"own", *vars(self)}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` and others ask each module in `sys.modules`
            raise AttributeError(name)
        return self.names[name] if name in self.names else getattr(load(self.__name__), name)


class Name:
    """A class, a function or a module that is not imported yet. A call, a subclass or an attribute imports it."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _load(self) -> Any:
        return getattr(load(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._load(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return bool(loaded(self._module)) and isinstance(instance, self._load())


class Submodules(MetaPathFinder, Loader):
    """Import a module in place of its stand-in when one of its submodules is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        parent = name.rpartition(".")[0]
        if not isinstance(sys.modules.get(parent), StandIn):
            return None
        load(parent)
        module = import_module(name)
        module.__spec__ = ModuleSpec(name, self, loader_state=module.__spec__)  # else Python executes the module again
        return module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__
        module.__spec__ = module.__spec__.loader_state
