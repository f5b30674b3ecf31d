"""The programs in examples/ run."""

import importlib.util
import sys

import pytest


def test_the_ntk_of_a_torch_cnn(repo, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_cnn", repo / "examples" / "torch_cnn.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for name, value in {"TRAINED": 400, "KERNEL": 40, "EPOCHS": 4}.items():
        monkeypatch.setattr(example, name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NTKIT_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["torch_cnn.py", "--out", "figure.png"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert "scikit-learn's digits (no mnist.npz was found): 400 training images" in lines[0]
    before, after = (line.split()[2:] for line in lines[2:4])
    assert float(after[0]) > float(before[0]) + 0.3
    assert all(0 < float(row[4]) < 1 for row in (before, after))
    assert (tmp_path / "figure.png").stat().st_size > 10_000
