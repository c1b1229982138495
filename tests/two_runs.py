#!/usr/bin/env python3
"""two_runs.py BUILD [TIMES]: two runs of tune into one --out, begun at the same moment (and, every other time, one after
the other).  One must go on as if it were alone, and the other stop with one line that names the folder and what to do,
within a second; with LIMIT seconds in the environment, that long, for busy machines.  A lock that a killed run left
behind must not lock anybody out.
"""
import os, shutil, signal, subprocess, sys, time

os.environ["FVGPT_CACHE"] = "none"                         # what is tested is computed

build = sys.argv[1]
times = int(sys.argv[2]) if len(sys.argv) > 2 else 20
limit = float(os.environ.get("LIMIT", "1"))
work = os.path.join(build, "two-runs")
passed = failed = 0
slowest = 0.0


def begin(out, seed="1", shots="4"):
    command = [os.path.join(build, "fvgpt"), "tune", "--model", "examples/tiny-clip", "--data", data, "--trainer", "FVGPT_CoOp",
               "--shots", shots, "--seeds", seed, "--epochs", "2", "--augment", "none", "--threads", "1", "--out", out]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), time.monotonic()


def files(folder):
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(at, name), "rb") as f: found[os.path.relpath(os.path.join(at, name), folder)] = f.read()
    return found


def check(what, right, message=""):
    global passed, failed
    passed, failed = passed + bool(right), failed + (not right)
    if not right: print(f"FAILED {what}: {message}")


shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
subprocess.run([os.path.join(build, "world"), os.path.join(work, "world"), "--set", "things", "--train", "4", "--test", "1"],
               check=True, stdout=subprocess.DEVNULL)
data = os.path.join(work, "world", "things")
alone = {}
for shots in ("4", "2"):
    begin(os.path.join(work, "alone" + shots), shots=shots)[0].communicate()
    alone[shots] = files(os.path.join(work, "alone" + shots))

for i in range(times):
    out = os.path.join(work, f"out{i}")
    runs = [begin(out)]
    if i % 2:                                               # the second comes while the first is at work
        while not os.path.exists(os.path.join(out, ".fvgpt.lock")): time.sleep(0.01)
    runs.append(begin(out, shots="2" if i % 4 > 1 else "4"))
    ended = {}
    while len(ended) < 1:                                   # the one that stops is the first to end
        for k, (p, start) in enumerate(runs):
            if k not in ended and p.poll() is not None: ended[k] = time.monotonic() - start
        time.sleep(0.005)
    loser = min(ended)
    output = [p.communicate() for p, _ in runs]
    status = [p.returncode for p, _ in runs]
    lines = [x for x in output[loser][1].splitlines() if x.startswith("fvgpt: ")]
    slowest = max(slowest, ended[loser])
    check(f"pair {i}: one goes on, the other stops", status[loser] == 1 and status[1 - loser] == 0, f"exit {status}, {output}")
    check(f"pair {i}: says why", len(lines) == 1 and out in lines[0] and "another fvgpt" in lines[0] and "--out" in lines[0], lines)
    check(f"pair {i}: at once", ended[loser] < limit, f"{ended[loser]:.2f} s")
    check(f"pair {i}: the other is as if alone",
          files(out) in ([alone["4"]] if i % 4 < 2 else [alone["4"], alone["2"]]), sorted(files(out)))

out = os.path.join(work, "killed")
p, _ = begin(out)
while not os.path.exists(os.path.join(out, ".fvgpt.lock")): time.sleep(0.01)
p.send_signal(signal.SIGKILL)
p.communicate()
check("a killed run leaves its lock file", os.path.exists(os.path.join(out, ".fvgpt.lock")))
p, _ = begin(out)
message = p.communicate()[1]
check("which locks nobody out", p.returncode == 0 and files(out) == alone["4"], message[-300:])
if not failed: shutil.rmtree(work)
print(f"the one that stops does within {slowest:.2f} s")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
