"""Sweeps: every executor gives the same rows, and what is done is not done again."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from pagemig.commands import main as cli
from pagemig.studies import sweep as sweeping
from pagemig.studies.replay import replay
from pagemig.studies.sweep import Grid, helps, sweep, verdict
from pagemig.trace import Header, Trace

OPTIONS = {
    "policies": ["first-touch", "hemem(period=20, hot=2)"],
    "fast_shares": [0.2, 0.6],
    "epochs": [5, 20],
    "seeds": [1, 2],
    "overlaps": [1.0, 4.0],
}


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(3)
    pages = np.concatenate([np.arange(60), rng.integers(45, 60, 5000)])
    return Trace.from_accesses(pages, header=Header(program="small"))


@pytest.fixture(scope="module")
def grid(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "small.pmt"
    trace.save(path)
    return Grid(traces=[str(path)], **OPTIONS)


@pytest.fixture(scope="module")
def rows(grid):
    return sweep(grid)


def test_every_combination_has_a_row(rows):
    points = {(r["fast_share"], r["epochs"], r["policy"], r["seed"], r["overlap"]) for r in rows}
    assert len(points) == len(rows) == 2 * 2 * 2 * 2 * 2
    assert {r["trace"] for r in rows} == {"small"}
    assert json.loads(json.dumps(rows)) == rows  # plain values
    assert all(r["bound_ns"] <= r["total_ns"] for r in rows)


def test_a_row_is_what_a_replay_comes_to(rows, trace):
    for row in rows:
        if row["seed"] != 2 or row["overlap"] != 4:
            continue
        run = replay(
            trace, row["policy"], seed=2, fast_share=row["fast_share"], epochs=row["epochs"]
        )
        assert row["total_ns"] == pytest.approx(run.bill(overlap=4).total_ns)
        assert row["moved"] == run.moved.sum()


def test_rows_are_a_table_for_pandas(rows):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows)
    assert list(frame.columns) == list(rows[0])
    assert frame.groupby("policy").size().tolist() == [16, 16]
    numbers = [name for name, value in rows[0].items() if isinstance(value, int | float)]
    assert all(pandas.api.types.is_numeric_dtype(frame[name]) for name in numbers)
    mean = frame.groupby(["policy", "epochs"])["total_ns"].mean()
    own = [r["total_ns"] for r in rows if (r["policy"], r["epochs"]) == mean.index[0]]
    assert mean.iloc[0] == pytest.approx(sum(own) / len(own))


def test_threads_and_processes_give_the_same_rows(grid, rows):
    with ThreadPoolExecutor(2) as threads:
        assert sweep(grid, threads) == rows
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert sweep(grid, processes) == rows


@pytest.mark.filterwarnings("ignore")  # what a cluster says of ports and times is not ours
def test_a_cluster_gives_the_same_rows(grid, rows, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs dask's distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(processes=True, local_directory=tmp_path, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        with client.get_executor() as executor:
            assert sweep(grid, executor, resume=tmp_path / "done.jsonl") == rows
    assert len((tmp_path / "done.jsonl").read_text().splitlines()) == 4


# ---- ended and begun again --------------------------------------------------------------------


class Killed(Exception):
    """What ends a sweep in a test."""


def test_a_killed_sweep_goes_on(grid, rows, tmp_path, monkeypatch):
    done, kept, ran = tmp_path / "done.jsonl", sweeping.run_task, []

    def dies_at(number):
        def run(task):
            if len(ran) == number:
                raise Killed
            ran.append((task["fast_share"], task["epochs"]))
            return kept(task)

        return run

    monkeypatch.setattr(sweeping, "run_task", dies_at(2))
    with pytest.raises(Killed):
        sweep(grid, resume=done)
    assert len(done.read_text().splitlines()) == 2
    # The machine went down while the third was being written.
    with done.open("a") as file:
        file.write('{"task": "3f", "rows": [{"vers')
    shares = []
    monkeypatch.setattr(sweeping, "run_task", dies_at(99))
    assert sweep(grid, resume=done, progress=lambda name, share: shares.append(share)) == rows
    assert len(ran) == len(set(ran)) == 4  # none was run twice
    assert shares == [0.75, 1.0]
    monkeypatch.setattr(sweeping, "run_task", dies_at(0))
    assert sweep(grid, resume=done) == rows
    assert len(ran) == 4


_KILLED = """
import os, signal, sys
from pagemig.studies import sweep as sweeping
done, kept = [], sweeping._append
def append(path, key, rows):
    kept(path, key, rows)
    done.append(key)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
sweeping._append = append
sweeping.sweep(sweeping.Grid(traces=[sys.argv[1]], **eval(sys.argv[2])), resume=sys.argv[3])
"""


def test_a_process_killed_in_a_sweep_repeats_nothing(grid, rows, tmp_path, monkeypatch):
    done, kept, ran = tmp_path / "done.jsonl", sweeping.run_task, []
    arguments = [grid.traces[0], repr(OPTIONS), str(done)]
    ended = subprocess.run([sys.executable, "-c", _KILLED, *arguments], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    before = done.read_text().splitlines()
    assert len(before) == 2
    monkeypatch.setattr(sweeping, "run_task", lambda task: ran.append(task) or kept(task))
    assert sweep(grid, resume=done) == rows
    assert len(ran) == 2
    assert done.read_text().splitlines()[:2] == before


def test_another_trace_of_the_same_name_is_run_again(tmp_path):
    path, done = tmp_path / "t.pmt", tmp_path / "done.jsonl"
    options = OPTIONS | {"fast_shares": [0.5], "epochs": [4], "seeds": [0]}
    for pages in ([1, 2, 3, 4] * 9, [5, 6, 7] * 9):
        Trace.from_accesses(pages).save(path)
        found = sweep(Grid(traces=[str(path)], **options), resume=done)
        assert found[0]["accesses"] == len(pages)
    assert len(done.read_text().splitlines()) == 2


def test_several_programs_are_joined(tmp_path):
    for name, pages in (("a", [1, 2, 3] * 30), ("b", [1, 2] * 20)):
        Trace.from_accesses(pages).save(tmp_path / f"{name}.pmt")
    options = OPTIONS | {"fast_shares": [0.5], "epochs": [4], "seeds": [0], "bounded": False}
    found = sweep(Grid(traces=[f"{tmp_path}/a.pmt+{tmp_path}/b.pmt"], **options))
    assert found[0]["trace"] == "a + b"
    assert set(json.loads(found[0]["programs_ns"])) == {"a", "b"}
    assert found[0]["bound_ns"] is None


# ---- what it says -----------------------------------------------------------------------------


def made(policy, share, epochs, gain, possible=None):
    return {
        "trace": "t",
        "machine": "m",
        "policy": policy,
        "base": "stays",
        "fast_share": share,
        "epochs": epochs,
        "gain": gain,
        "possible": possible,
    }


def test_the_verdict_has_ranges():
    points = [
        made("moves", 0.1, 20, -0.2),
        made("moves", 0.1, 50, 0.1, 0.3),
        made("moves", 0.5, 20, 0.2, 0.5),
        made("moves", 0.5, 20, 0.4, 0.7),  # another seed
        made("stays", 0.5, 20, 0.0),
    ]
    assert helps(points, "moves")[2] == (0.5, 20, pytest.approx(0.3))
    (words,) = verdict(points)
    assert "helps at 2 points (size 0.1 to 0.5, 20 to 50 epochs)" in words
    assert "hurts at 1 points (size 0.1, 20 epochs)" in words
    assert "from -20.0 % (size 0.1, 20 epochs) to +30.0 % (size 0.5, 20 epochs)" in words
    assert "70 % of the possible at best" in words
    assert "helps at all 1 points" in next(verdict(points[1:2]))
    assert "helps at none of 1 points" in next(verdict(points[:1]))


# ---- the command ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_command(grid, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["--policies", "first-touch,hemem(period=20, hot=2)", "--fast-shares", "0.2,0.6"]
    arguments += ["--epochs", "5,20", "--jobs", "1", "--resume", str(tmp_path / "done.jsonl")]
    for kind in ("csv", "png", "html"):
        arguments += ["--output", str(tmp_path / f"r.{kind}")]
    assert cli.main(["sweep", grid.traces[0], *arguments]) == 0
    out = capsys.readouterr().out
    assert "gain in % against first-touch" in out
    assert "hemem(period=20, hot=2) on small, cxl: helps at" in out
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "r.html").read_bytes().count(b"data:image/png") == 2
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1 + 8
    assert len((tmp_path / "done.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nosuch"], "no trace 'nosuch'"),
        (["--policies", "nosuch"], "no policy 'nosuch'"),
        (["--machines", "nosuch"], "no machine 'nosuch'"),
        (["--epochs", "5,x"], "--epochs takes numbers"),
        (["--fast-shares", ""], "--fast-shares takes numbers"),
        (["--jobs", "0"], "--jobs 0"),
        (["--output", "nosuch/x.csv"], "nosuch"),
        (["--output", "x.txt"], "x.txt"),
    ],
)
def test_command_says_what_is_wrong(arguments, why, capsys):
    assert cli.main(["sweep", *arguments]) == 2
    out, err = capsys.readouterr()
    assert why in err
    assert (out, err.count("\n")) == ("", 1)


def test_a_cluster_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main(["sweep", "--dask", "tcp://127.0.0.1:1"]) == 2
    assert "pip install 'pagemig[dask]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"policies": []}, "policies must be a list"),
        ({"policies": "first-touch"}, "policies must be a list"),
        ({"policies": [object()]}, "policies of a sweep are names"),
        ({"epochs": []}, "epochs must be a list"),
        ({"changes": [("nosuch", 1)]}, "nosuch"),
    ],
)
def test_grids_that_mean_nothing(grid, change, why):
    with pytest.raises(ValueError, match=why):
        Grid(traces=grid.traces, **OPTIONS | change)


def test_every_damaged_byte_of_finished_tasks_is_found(tmp_path):
    done = tmp_path / "done.jsonl"
    rows = [{"policy": "tpp", "gain": 0.125, "moved": 17}, {"policy": "none", "gain": None}]
    sweeping._append(done, "3f", rows)
    sweeping._append(done, "40", rows[:1])
    whole = sweeping._read(done)
    assert whole == {"3f": rows, "40": rows[:1]}
    data = done.read_bytes()
    for place in range(len(data)):
        for flip in (0x01, 0x10, 0x20, 0x80):
            done.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            found = sweeping._read(done)
            assert all(whole.get(key) == rows for key, rows in found.items()), (place, flip)
    done.write_bytes(data.replace(b"17", b"16"))
    assert list(sweeping._read(done)) == []


def test_the_package_offers_sweeps_and_reads_them_late():
    import pagemig

    assert pagemig.sweep is sweep
    assert pagemig.Grid is Grid
    with pytest.raises(AttributeError, match="no attribute 'swept'"):
        pagemig.swept  # noqa: B018
    code = "import sys, pagemig; print('pagemig.studies.sweep' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_ctrl_c_does_not_wait_for_the_tasks(tmp_path):
    """When the first task, a short one, is done, the workers are at tasks of half an hour."""
    path, done = tmp_path / "x.pmt", tmp_path / "done.jsonl"
    Trace.from_accesses(np.random.default_rng(3).integers(0, 60, 1_000_000)).save(path)
    command = [sys.executable, "-m", "pagemig", "sweep", str(path), "--jobs", "2", "--no-bound"]
    command += ["--policies", "first-touch,hemem(period=20)", "--fast-shares", "0.5"]
    command += ["--epochs", "1,99999,100000", "--seeds", ",".join(map(str, range(100)))]
    command += ["--resume", str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweeper:
        while not done.exists() and sweeper.poll() is None:
            time.sleep(0.02)
        assert sweeper.poll() is None
        sweeper.send_signal(signal.SIGINT)
        try:
            said = sweeper.communicate(timeout=120)[1]
        finally:
            sweeper.kill()
    assert sweeper.returncode == 130
    assert b"Traceback" not in said
    assert len(done.read_text().splitlines()) <= 1  # the line itself may have been on its way


def test_workers_end_with_a_command_that_is_killed():
    """Their tasks would never end."""
    program = """if __name__ == "__main__":
        import os, signal
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        from pagemig.commands.sweep import begin_worker
        pool = ProcessPoolExecutor(1, get_context("spawn"), begin_worker)
        worker = pool.submit(os.getpid).result()
        pool.submit(signal.pause)
        print(worker, flush=True)
        signal.pause()
    """
    command = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    ended = os.pidfd_open(int(command.stdout.readline()))
    command.kill()
    command.wait()
    command.stdout.close()
    there = select.poll()
    there.register(ended, select.POLLIN)
    assert there.poll(60_000)
    os.close(ended)
