"""`ntkit info`: what a bug report needs."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import ntkit
from ntkit._check import format_bytes
from ntkit.cli import _options as o
from ntkit.cli._console import out, print_json

CORE = (
    "jax",
    "jaxlib",
    "equinox",
    "lineax",
    "optax",
    "diffrax",
    "jaxtyping",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
)
MORE = ("typer", "rich", "zarr")
EXTRAS = ("torch", "dask", "pandas")


def info(
    model: Annotated[Path | None, typer.Argument(help="What `ntkit fit` saved: show what it is instead.")] = None,
    json: o.Json = False,
) -> None:
    """Show versions, devices, precision, cores, memory, and where data is kept; or what a saved model is."""
    found = collect() if model is None else describe(model)
    if json:
        print_json(found)
        return
    for name, value in found.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = ", ".join(map(str, value)) if isinstance(value, list) else text
        out.print(f"{name:<14} {text}", markup=False)


def collect() -> dict[str, Any]:
    """What `info` shows, as a dictionary."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntkit"
    return {
        "ntkit": ntkit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) or "missing" for name in (*CORE, *MORE)},
        "extras": {name: version for name in EXTRAS if (version := _version(name))},
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "x64": bool(jax.config.read("jax_enable_x64")),
        "precision": "estimators, fit and predict work in float64; kernels in the dtype of their input",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "data folder": os.environ.get("NTKIT_DATA") or str(cache),
    }


def describe(path: Path) -> dict[str, Any]:
    """What a saved model is, as a dictionary. **Raises:** `InputError` as `load_model` does."""
    from ntkit.cli._model import load_model

    model = load_model(path)
    found = {
        "model": path.name,
        "task": model.task,
        "network": str(model.architecture),
        "kernel": model.architecture.kernel,
        "ridge": model.alpha,
        "chosen by": model.criterion or "nothing: all was given, or the file does not say",
        "fitted to": f"{len(model.inputs)} examples of {_size(model)}, {model.source}",
        "features": list(model.columns) or "without names",
        "scaling": model.scaling.kind,
    }
    return found | ({"classes": model.classes.tolist()} if model.task == "classification" else {})


def _size(model: Any) -> str:
    image = model.architecture.image
    return f"{' x '.join(map(str, image))} pixels and channels" if image else f"{model.inputs.shape[1]} features"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    """Of the machine, and of the container if that has a limit of its own."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return format_bytes(total)
    return f"{format_bytes(min(total, limit))}" + (" (limit of the container)" if limit < total else "")
