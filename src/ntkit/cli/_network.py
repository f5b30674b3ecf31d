"""A network of the user's own, by the name `module:attribute`."""

import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax

from ntkit.errors import ComputationError, InputError

WANTED = (
    "a torch module, a pair (fn, params) with fn(params, x) -> (n, o), or a function without arguments that returns "
    "one of them"
)


@dataclasses.dataclass(frozen=True)
class Network:
    """`function` is a torch module (`params` None), or fn(params, x) of JAX or torch, as `library` says."""

    function: Any
    params: Any
    library: str


@contextlib.contextmanager
def importable_here() -> Iterator[None]:
    """Modules in the current folder can be imported, as under `python -m`."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def load_network(name: str) -> Network:
    """The network of that name. **Raises:** `InputError`, or `ComputationError` where the user's own code fails."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"The network must be named `module:attribute`, such as `model:net`, but is {name!r}.")
    if module.endswith(".py") or "/" in module:
        dotted = module.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise InputError(f"{module!r} is a file; name the module that it is: `{dotted}:{attribute}`.")
    value: Any = _imported(module)
    for part in attribute.split("."):
        if not hasattr(value, part):
            known = [n for n in dir(value) if not n.startswith("_") and not isinstance(getattr(value, n), ModuleType)]
            has = f" It has {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}." if known else " It is empty."
            raise InputError(f"Module {module!r} has no `{attribute}`.{has}")
        value = getattr(value, part)
    network = _recognised(value)
    if network is None and callable(value):
        network = _recognised(made := _made(name, value))
        if network is None:
            raise InputError(f"`{name}` returns {_kind(made)}, which is no network. It must return {WANTED}.")
    if network is None:
        raise InputError(f"`{name}` is {_kind(value)}, which is no network. Give {WANTED}.")
    return network


def _imported(module: str) -> ModuleType:
    try:
        importlib.invalidate_caches()
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and (module == missing or module.startswith(missing + ".")):
            raise InputError(
                f"There is no module {missing!r}, neither in the current folder nor among what is installed."
            ) from error
        if missing.split(".")[0] == "torch":
            raise InputError(
                f"Module {module!r} imports torch, which is not installed: `pip install 'ntkit[torch]'`."
            ) from error
        raise InputError(f"Module {module!r} imports {missing!r}, which is not installed.") from error
    except Exception as error:
        raise ComputationError(f"Importing {module!r} failed: {told(error)}.") from error


def _made(name: str, factory: Any) -> Any:
    try:
        return factory()
    except Exception as error:
        frames = error.__traceback__
        if isinstance(error, TypeError) and frames is not None and frames.tb_next is None:  # it was not even entered
            raise InputError(
                f"`{name}` is {_kind(factory)} that cannot be called without arguments ({error}). Give {WANTED}."
            ) from error
        raise ComputationError(f"`{name}()` failed: {told(error)}.") from error


def _recognised(value: Any) -> Network | None:
    if "torch" in sys.modules:
        from ntkit.torch.arrays import holds_tensors, is_module

        if is_module(value):
            return Network(value, None, "torch")
        if _is_pair(value) and holds_tensors(value[1]):
            return Network(value[0], value[1], "torch")
    return Network(value[0], value[1], "jax") if _is_pair(value) and jax.tree.leaves(value[1]) else None


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and callable(value[0])


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


def told(error: BaseException) -> str:
    """A foreign error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
