#!/usr/bin/env python3
"""kill_everywhere.py BUILD [EVERY]: a run of CoOp and FVG-PT is killed before each call that touches a file, once before
every one (or every EVERY-th); given again, it must end with the same bytes in every file and on stdout, and leave no
other file.  Writes are killed twice, the second time with half of the bytes written.  Linux; needs cc for
tests/kill_everywhere.c, which says how.
"""
import json, os, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

os.environ["FVGPT_CACHE"] = "none"                         # what is tested is computed

build = os.path.abspath(sys.argv[1])
every = int(sys.argv[2]) if len(sys.argv) > 2 else 1
here = os.path.dirname(os.path.abspath(__file__))
work = os.path.join(build, "kill-everywhere")
model = os.path.join(here, "..", "examples", "tiny-clip")
library = os.path.join(work, "kill.so")
data = os.path.join(work, "data")


def make_data():
    """Two base classes and two new ones, a picture each to train and to test; masks for both."""
    subprocess.run([os.path.join(build, "world"), os.path.join(work, "world"), "--set", "things", "--train", "1", "--test", "1"],
                   check=True, stdout=subprocess.DEVNULL)
    things = os.path.join(work, "world", "things")
    with open(os.path.join(things, "split.json")) as f:
        split = json.load(f)
    split = {part: [x for x in split[part] if x[1] < 4] for part in split}
    for part in split:
        for path, _, _ in split[part]:
            for name in (path, os.path.join("mask", os.path.splitext(path)[0] + ".pgm")):
                os.makedirs(os.path.dirname(os.path.join(data, name)), exist_ok=True)
                shutil.copy(os.path.join(things, name), os.path.join(data, name))
    with open(os.path.join(data, "split.json"), "w") as f:
        json.dump(split, f)


def tune(out, **more):
    command = [os.path.join(build, "fvgpt"), "tune", "--model", model, "--data", data, "--trainer", "FVGPT_CoOp", "--shots", "1",
               "--seeds", "1", "--epochs", "2", "--augment", "none", "--threads", "1", "--out", out]
    if more: more["LD_PRELOAD"] = library
    return subprocess.run(command, capture_output=True, env={**os.environ, **more}, timeout=300)


def files(folder):
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            with open(path, "rb") as f: found[os.path.relpath(path, folder)] = f.read()
    return found


def killed(k, call, torn):
    """What went wrong, or None."""
    out = os.path.join(work, f"out{k}{'torn' if torn else ''}")
    more = {"KILL_TORN": "1"} if torn else {}
    first = tune(out, KILL_AT=str(k), **more)
    if first.returncode != -9: return f"was not killed: exit {first.returncode}"
    left = sorted(files(out)) if os.path.isdir(out) else []
    again = tune(out)
    if again.returncode: return f"left {left}; again: exit {again.returncode}, {again.stderr[-300:]!r}"
    have = files(out)
    wrong = [name for name in sorted(set(have) | set(whole)) if have.get(name) != whole.get(name)]
    if wrong: return f"left {left}; again: other files {wrong}"
    if again.stdout != table: return f"left {left}; again: another table"
    shutil.rmtree(out)
    return None


shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", os.path.join(here, "kill_everywhere.c"), "-o", library, "-ldl"],
               check=True)
make_data()
reference = tune(os.path.join(work, "whole"))
if reference.returncode: sys.exit(f"the run fails: {reference.stderr[-300:]!r}")
whole, table = files(os.path.join(work, "whole")), reference.stdout
log = os.path.join(work, "calls")
counted = tune(os.path.join(work, "counted"), KILL_LOG=log)
if counted.returncode or files(os.path.join(work, "counted")) != whole:
    sys.exit("the library changes the run")
with open(log, errors="replace") as f:
    calls = [line.rstrip("\n").split(" ", 2)[1:] for line in f]
kinds = {}
for what, _ in calls: kinds[what] = kinds.get(what, 0) + 1
print(len(calls), "calls:", ", ".join(f"{n} {what}" for what, n in sorted(kinds.items())))
jobs = [(k + 1, calls[k], torn) for k in range(0, len(calls), every) for torn in (0, 1) if not torn or calls[k][0] == "write"]
passed = failed = 0
with ThreadPoolExecutor(2) as pool:
    for (k, call, torn), wrong in zip(jobs, pool.map(lambda job: killed(*job), jobs)):
        passed, failed = passed + (not wrong), failed + bool(wrong)
        if wrong: print(f"FAILED killed {'within' if torn else 'before'} call {k}, {' '.join(call)}: {wrong}")
if not failed: shutil.rmtree(work)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
