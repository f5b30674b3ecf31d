"""Results on disk: resumed after any end, never half valid."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from gram_examples import Pair, Rbf, Slow, Twice, examples

from ntkit.errors import ComputationError, InputError
from ntkit.gram import gram, journal, targets
from ntkit.gram.identity import kernel_digest

X = examples(29, 5)
SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".zarr"])


class Stopped(Exception):
    """Ends a run from its progress function."""


def stop_at(tiles):
    def progress(done, total):
        if done >= tiles:
            raise Stopped

    return progress


def counted():
    seen = []
    return seen, lambda done, total: seen.append(done)


def values(out):
    return np.asarray(out[:])


@SUFFIXES
@pytest.mark.parametrize("x2", [None, examples(13, 5, seed=1)], ids=["symmetric", "rectangular"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_file_holds_the_matrix(tmp_path, suffix, x2, dtype):
    out = gram(Rbf(), X, x2, tile=8, out=tmp_path / f"k{suffix}", dtype=dtype)
    np.testing.assert_array_equal(values(out), gram(Rbf(), X, x2, tile=8, dtype=dtype))
    opened = np.load(tmp_path / "k.npy") if suffix == ".npy" else zarr.open_array(tmp_path / "k.zarr", mode="r")
    np.testing.assert_array_equal(values(opened), values(out))
    assert opened.dtype == dtype


@SUFFIXES
def test_a_stopped_run_goes_on_where_it_was(tmp_path, suffix):
    path = tmp_path / f"k{suffix}"
    with pytest.raises(Stopped):
        gram(Rbf(), X, tile=4, out=path, progress=stop_at(10))
    seen, progress = counted()
    out = gram(Rbf(), X, out=path, progress=progress)  # the tile is the first run's
    assert seen[0] >= 10
    assert seen[-1] == 36
    np.testing.assert_array_equal(values(out), gram(Rbf(), X, tile=4))


@SUFFIXES
def test_a_finished_run_is_recognised_at_once(tmp_path, suffix):
    path = tmp_path / f"k{suffix}"
    first = values(gram(Rbf(), X, tile=4, out=path))
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    seen, progress = counted()
    np.testing.assert_array_equal(values(gram(Rbf(), X, out=path, progress=progress)), first)
    assert seen == []
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def spoil(path, suffix):
    """Changes one byte of tile (1, 2), or of its mirror image."""
    file = path if suffix == ".npy" else path / "c" / "2" / "1"
    with file.open("r+b") as opened:
        # For .npy: row 9 of 29, column 5, in the tile (2, 1) of side 4.
        offset = np.load(path, mmap_mode="r").offset + 4 * (9 * 29 + 5) if suffix == ".npy" else 8
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 1]))


@SUFFIXES
@pytest.mark.parametrize("finished", [True, False])
def test_a_half_written_tile_is_detected(tmp_path, suffix, finished):
    path = tmp_path / f"k{suffix}"
    want = gram(Rbf(), X, tile=4)
    if finished:
        gram(Rbf(), X, tile=4, out=path)
    else:
        with pytest.raises(Stopped):
            gram(Rbf(), X, tile=4, out=path, progress=stop_at(34))
    spoil(path, suffix)
    assert not np.array_equal(values(np.load(path) if suffix == ".npy" else zarr.open_array(path, mode="r")), want)
    seen, progress = counted()
    np.testing.assert_array_equal(values(gram(Rbf(), X, out=path, progress=progress)), want)
    if finished:
        assert seen == [35, 36]


@SUFFIXES
def test_a_file_that_is_gone_is_made_again(tmp_path, suffix):
    path = tmp_path / f"k{suffix}"
    want = values(gram(Rbf(), X, tile=4, out=path))
    if suffix == ".npy":
        path.unlink()
    else:
        shutil.rmtree(path)
    np.testing.assert_array_equal(values(gram(Rbf(), X, out=path)), want)


def test_a_file_cut_short_is_made_again(tmp_path):
    path = tmp_path / "k.npy"
    want = values(gram(Rbf(), X, tile=4, out=path))
    os.truncate(path, 1000)
    np.testing.assert_array_equal(values(gram(Rbf(), X, out=path)), want)


@pytest.mark.parametrize("cut", [0, 1, 20, "header"])
def test_a_journal_cut_short_costs_only_what_is_missing(tmp_path, cut):
    path = tmp_path / "k.npy"
    want = values(gram(Rbf(), X, tile=4, out=path))
    record = tmp_path / "k.npy.journal"
    content = record.read_bytes()
    lines = content.splitlines(keepends=True)
    record.write_bytes(lines[0] if cut == "header" else content[: len(content) - cut])
    seen, progress = counted()
    np.testing.assert_array_equal(values(gram(Rbf(), X, out=path, progress=progress)), want)
    if cut == "header":
        assert seen[0] == 0
    assert record.read_bytes().count(b"\n") == len(lines)


OTHERS = {
    "kernel": lambda path: gram(Rbf(1.4), X, out=path),
    "x1": lambda path: gram(Rbf(), X + 1, out=path),
    "x2": lambda path: gram(Rbf(), X, X, out=path),
    "dtype": lambda path: gram(Rbf(), X, out=path, dtype="float64"),
}


@pytest.mark.parametrize("part", OTHERS)
def test_the_journal_of_another_job_is_refused_and_the_difference_named(tmp_path, part):
    path = tmp_path / "k.npy"
    want = values(gram(Rbf(), X, tile=4, out=path)).copy()
    with pytest.raises(InputError, match=f"differs in: {part}.*overwrite=True"):
        OTHERS[part](path)
    np.testing.assert_array_equal(np.load(path), want)


def test_another_tile_is_refused(tmp_path):
    gram(Rbf(), X, tile=4, out=tmp_path / "k.npy")
    with pytest.raises(InputError, match=r"`tile` is \(5, 5\).*used \(4, 4\)"):
        gram(Rbf(), X, tile=5, out=tmp_path / "k.npy")


@SUFFIXES
def test_what_is_not_ours_is_not_touched_unless_told(tmp_path, suffix):
    path = tmp_path / f"k{suffix}"
    if suffix == ".npy":
        np.save(path, np.arange(3))
    else:
        zarr.create_array(path, shape=(3,), dtype="float32")
    with pytest.raises(InputError, match="exists, and no run of `gram` can be resumed"):
        gram(Rbf(), X, out=path)
    out = gram(Rbf(), X, tile=4, out=path, overwrite=True)
    np.testing.assert_array_equal(values(out), gram(Rbf(), X, tile=4))


def test_overwrite_starts_again(tmp_path):
    gram(Rbf(), X, tile=4, out=tmp_path / "k.npy")
    out = gram(Rbf(1.4), X, tile=5, out=tmp_path / "k.npy", overwrite=True)
    np.testing.assert_array_equal(out, gram(Rbf(1.4), X, tile=5))
    np.testing.assert_array_equal(gram(Rbf(1.4), X, out=tmp_path / "k.npy"), out)


def test_a_strange_journal_is_refused(tmp_path):
    (tmp_path / "k.npy.journal").write_text("shopping list\n")
    with pytest.raises(InputError, match="not a journal"):
        gram(Rbf(), X, out=tmp_path / "k.npy")


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "k.npy"
    with pytest.raises(Stopped):
        gram(Rbf(), X, tile=4, out=path, progress=stop_at(5))
    held = journal.Journal.read(tmp_path / "k.npy.journal").lock()
    with pytest.raises(InputError, match="Another process"):
        gram(Rbf(), X, out=path)
    held.close()
    gram(Rbf(), X, out=path)


@pytest.mark.parametrize("form", ["dict", "tuple", "group path", "group", "arrays", "zarr arrays"])
def test_named_tuples_go_to_several_targets(tmp_path, form):
    shape = (29, 29)
    out = {
        "dict": {"two": tmp_path / "two.npy", "one": tmp_path / "one.zarr"},
        "tuple": Pair(str(tmp_path / "one.npy"), str(tmp_path / "two.npy")),
        "group path": tmp_path / "both.zarr",
        "group": zarr.open_group(tmp_path / "group.zarr"),  # empty
        "arrays": Pair(np.zeros(shape, np.float32), np.zeros(shape, np.float32)),
        "zarr arrays": {
            name: zarr.create_array(tmp_path / f"array {name}.zarr", shape=shape, dtype="float32", chunks=(7, 11))
            for name in ("one", "two")
        },
    }[form]
    want = gram(Twice(Rbf()), X, tile=4)
    got = gram(Twice(Rbf()), X, tile=4, out=out)
    assert isinstance(got, Pair)
    again = gram(Twice(Rbf()), X, tile=4, out=out)
    for result in (got, again):
        np.testing.assert_array_equal(values(result.one), want.one)
        np.testing.assert_array_equal(values(result.two), want.two)
    if form == "arrays":
        assert got.one is out.one
    if form == "group path":
        np.testing.assert_array_equal(values(zarr.open_group(out, mode="r")["two"]), want.two)


@pytest.mark.parametrize(
    "out, words",
    [
        ("k.npy", "has 2 arrays"),
        ({"one": "a.npy"}, "must have the keys"),
        (("a.npy",), "must hold 2 targets"),
        (("a.npy", "a.npy"), "twice"),
        (("a.npy", np.zeros((29, 29))), "files only"),
    ],
)
def test_targets_that_do_not_fit_a_named_tuple_are_refused(tmp_path, monkeypatch, out, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        gram(Twice(Rbf()), X, out=out)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_writable_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="not writable"):
        gram(Rbf(), X, out=tmp_path / "k.npy")


def test_a_disk_without_room_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10_000, 8_000, 2_000))
    with pytest.raises(ComputationError, match=r"needs 3.3 KiB \(3364 bytes\).*2.0 KiB \(2000 bytes\) are free"):
        gram(Rbf(), X, out=tmp_path / "k.npy")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_is_written(tmp_path, monkeypatch):
    path = tmp_path / "k.npy"
    written = 0

    def full(fd, data, offset):
        nonlocal written
        written += 1
        if written > 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    pwrite = os.pwrite
    monkeypatch.setattr(targets, "write_all", lambda fd, data, offset: full(fd, memoryview(data).cast("B"), offset))
    with pytest.raises(ComputationError, match=r"disk is full: `.*k.npy` needs .* of 36 tiles are written") as caught:
        gram(Rbf(), X, tile=4, out=path)
    saved = int(str(caught.value).split(" of 36")[0].split()[-1])
    assert 0 < saved < 36
    monkeypatch.undo()
    seen, progress = counted()
    np.testing.assert_array_equal(values(gram(Rbf(), X, out=path, progress=progress)), gram(Rbf(), X, tile=4))
    assert seen[0] == saved


@SUFFIXES
def test_a_really_full_disk(tmp_path, suffix):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k,nr_inodes=2000", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        x, path = examples(300, 5), disk / f"k{suffix}"  # 360 kB
        with pytest.raises(Stopped):
            gram(Rbf(), x, tile=25, out=path, progress=stop_at(20))
        ballast = disk / "ballast"
        if suffix == ".npy":  # reserved beforehand: nothing can come between
            ballast.write_bytes(b"x" * shutil.disk_usage(disk).free)
        else:
            with pytest.raises(OSError, match="No space"):
                ballast.write_bytes(b"x" * 600_000)
            with pytest.raises(ComputationError, match="disk is full"):
                gram(Rbf(), x, out=path)
            ballast.unlink()
        np.testing.assert_array_equal(values(gram(Rbf(), x, out=path)), gram(Rbf(), x, tile=25))
        with pytest.raises(ComputationError, match="disk is full"):
            gram(Rbf(), examples(500, 5), out=disk / f"more{suffix}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def python(code, *args):
    """A fresh interpreter that knows this folder's kernels."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_ctrl_c_stops_promptly_and_says_how_to_resume(tmp_path):
    path = tmp_path / "k.npy"
    code = """
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
        from gram_examples import Rbf, Slow, examples
        from ntkit.gram import gram
        say = lambda done, total: print(done, flush=True)
        gram(Slow(Rbf(), 0.05), examples(40, 5), tile=2, out=sys.argv[1], progress=say)
    """
    process = python(code, path)
    for line in process.stdout:
        if int(line) >= 7:
            break
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    # A third of a second, but for a disk that others keep busy; the tiles that were left take 10 s.
    assert time.monotonic() - sent < 9
    assert process.returncode != 0
    last = errors.strip().splitlines()[-1]
    assert last.startswith("KeyboardInterrupt: stopped: ")
    assert int(re.search(r"(\d+) of 210 tiles", last).group(1)) < 100  # not after all, which take 10 s
    assert "Repeat the call to resume" in last
    seen, progress = counted()
    out = gram(Slow(Rbf(), 0.05), examples(40, 5), out=path, progress=progress)
    assert seen[0] >= 7
    np.testing.assert_array_equal(out, gram(Rbf(), examples(40, 5), tile=2))


# One process imports JAX; its children, forked before JAX has any thread, are killed.
KILLER = """
    import os, random, shutil, signal, sys, time, zarr
    from pathlib import Path
    from gram_examples import Rbf, Slow, examples
    from ntkit.gram import gram
    from ntkit.gram.journal import Journal

    folder, suffix, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    x = examples(27, 5)

    def child(path):
        pid = os.fork()
        if pid:
            return pid
        try:
            gram(Slow(Rbf(), 0.015), x, tile=3, out=path, progress=False)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)

    def content(path):
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        return [(p.relative_to(path).as_posix(), p.read_bytes()) for p in files if ".partial" not in p.name]

    def finish(path):
        assert os.waitpid(child(path), 0)[1] == 0
        return content(path)

    def begun(path):
        while not Path(str(path) + ".journal").exists():
            time.sleep(0.001)

    whole, start = folder / ("whole" + suffix), time.monotonic()
    pid = child(whole)
    begun(whole)
    writing = time.monotonic()
    assert os.waitpid(pid, 0)[1] == 0
    want, end = content(whole), time.monotonic()
    rng, partial, equal = random.Random(int(sys.argv[4])), 0, 0
    for trial in range(trials):
        path = folder / f"{trial}{suffix}"
        pid = child(path)
        if trial % 4 == 0:  # any moment; else one at which tiles are written
            time.sleep(rng.uniform(0, 1) * (end - start))
        else:
            begun(path)
            time.sleep(rng.uniform(0, 1) * (end - writing))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found = Journal.read(folder / f"{trial}{suffix}.journal")
        partial += found is not None and found.stamps is None and len(found.done) > 0
        equal += finish(path) == want
        path.unlink() if path.is_file() else shutil.rmtree(path)
    print(partial, equal)
"""


@pytest.mark.slow
@SUFFIXES
def test_killed_at_random_moments_twenty_of_twenty_resumes_give_the_same_bytes(tmp_path, suffix):
    process = python(KILLER, tmp_path, suffix, 20, 7)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    partial, equal = map(int, output.split())
    print(f"{suffix}: {partial} of 20 were killed with some tiles recorded; {equal} of 20 resumes gave the same bytes")
    assert equal == 20
    assert partial >= 5  # or the test tests little


def test_the_identity_of_a_kernel_is_its_content():
    def scaled(by):
        return lambda x1, x2=None: by * x1

    same = [Rbf(), Rbf(1.3), Rbf(amplitude=1.3)]
    others = [
        Rbf(1.4),
        Slow(Rbf(), 0.1),
        Slow(Rbf(), 0.2),
        Twice(Rbf()),
        scaled(1.0),
        scaled(2.0),
        scaled,
        np.sin,
        np.cos,
    ]
    digests = [kernel_digest(kernel) for kernel in [same[0], *others]]
    assert len({kernel_digest(kernel) for kernel in same}) == 1
    assert len(set(digests)) == len(digests)
    assert kernel_digest(scaled(1.0)) == kernel_digest(scaled(1.0))


def test_the_identity_of_a_kernel_is_the_same_in_another_process():
    code = """
        from gram_examples import Rbf, Slow
        from ntkit import NTK, nn
        from ntkit.gram.identity import kernel_digest
        from jax.nn import silu
        import jax.numpy as jnp
        net = nn.mlp(depth=2, width=8, activation=nn.Relu(), beta=0.1)
        print(*map(kernel_digest, [Slow(Rbf(), 0.1), NTK(net), lambda x: silu(jnp.tanh(x)), silu]))
    """
    first, second = (python(code).communicate()[0] for _ in range(2))
    assert len(first.split()) == 4
    assert first == second


def test_the_journal_is_plain_json(tmp_path):
    gram(Rbf(), X, tile=8, out=tmp_path / "k.npy")
    lines = [json.loads(line) for line in (tmp_path / "k.npy.journal").read_text().splitlines()]
    assert lines[0]["format"] == 1
    assert len(lines) == 1 + 10 + 1
