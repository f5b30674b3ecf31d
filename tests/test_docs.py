"""The examples of the README and of the how-to pages run, each page from top to bottom, as a reader would type them."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page):
    return EXAMPLE.findall(page.read_text())


@pytest.fixture
def a_readers_folder(tmp_path, monkeypatch):
    """What the examples take for granted: a table of prices, and an MNIST (of four images) that need not be fetched."""
    rng = np.random.default_rng(0)
    table = "\n".join(f"{a:.3f},{b:.3f},{a + b:.3f}" for a, b in rng.normal(size=(40, 2)))
    (tmp_path / "table.csv").write_text(f"size,age,price\n{table}\n")
    images, labels = np.zeros((4, 28, 28), np.uint8), np.array([0, 1, 0, 1], np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    monkeypatch.setenv("NTKIT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("a_readers_folder", "unchecked")
@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_examples_run(page):
    names = {}
    for number, code in enumerate(examples(page), 1):
        exec(compile(code, f"{page.name}, example {number}", "exec"), names)


def test_the_readme_has_an_example():
    assert examples(ROOT / "README.md")
