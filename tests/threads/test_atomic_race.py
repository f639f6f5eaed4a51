"""ThreadSanitizer sees through the locks of ``atomics.h``: a race planted in one is reported.

A small C program takes the locks from two threads.  Built as they are it is silent; built with the
planted race (``make mutants`` does the same to the whole core) the report names the lock.
"""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import pagemig as pm

CC = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include "pagemig/atomics.h"

static uint32_t spin, rw;
static long counts[2];

static void *work(void *unused)
{
    for (int i = 0; i < 20000; i++) {
        pmg_spin_lock(&spin);
        counts[0]++;
        pmg_spin_unlock(&spin);
        pmg_write_lock(&rw);
        counts[1]++;
        pmg_write_unlock(&rw);
        pmg_read_lock(&rw);
        pmg_read_unlock(&rw);
    }
    return unused;
}

int main(void)
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("%ld %ld\n", counts[0], counts[1]);
    return 0;
}
"""


def built(folder: Path, *flags: str) -> Path:
    source, program = folder / "locks.c", folder / "locks"
    source.write_text(PROGRAM)
    line = [*CC, "-std=gnu11", "-O1", "-g", f"-I{pm.get_include()}", *flags]
    done = subprocess.run([*line, source, "-o", program, "-pthread"], capture_output=True)
    if done.returncode and flags:
        pytest.skip("the compiler has no ThreadSanitizer")
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path) -> subprocess.CompletedProcess[str]:
    """Runs it without address randomisation, which the sanitizer's shadow memory may not bear."""
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    bare = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "TSAN_OPTIONS")}
    return subprocess.run([*fixed, program], capture_output=True, text=True, env=bare, timeout=60)


def test_locks_count_exactly(tmp_path: Path) -> None:
    assert run(built(tmp_path)).stdout == "40000 40000\n"


def test_locks_are_silent_under_the_sanitizer(tmp_path: Path) -> None:
    done = run(built(tmp_path, "-fsanitize=thread"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "40000 40000\n", "")


def test_planted_race_is_reported(tmp_path: Path) -> None:
    done = run(built(tmp_path, "-fsanitize=thread", "-DPAGEMIG_PLANT_RACE"))
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
    assert "pmg_spin_unlock" in done.stderr
