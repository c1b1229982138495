#!/usr/bin/env python3
"""What `make demo` must show: demo_bars.py BUILD reads BUILD/demo/*-runs/results.json and BUILD/report/results.json.

On the correlated sets FVGPT_CoOp's H lies above CoOp's by more than two standard deviations (over the seeds, of the mean
over the sets: of each method's own, and of the difference); on the control set it is at most 0.5 below; the share of the
Grad-CAM on the object rises from CoOp to FVGPT_CoOp on the base-class test pictures."""
import json
import statistics
import sys

build = sys.argv[1]
correlated, control = ["things", "colours", "textures"], "control"
passed = failed = 0


def check(ok, what):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(("ok     " if ok else "FAILED ") + what)


def per_seed(name, method):
    rows = json.load(open(f"{build}/demo/{name}-runs/results.json"))["rows"]
    return [row["H"] for row in rows if row["method"] == method]


def gap(names):
    coop, fvgpt = ([statistics.mean(h) for h in zip(*(per_seed(n, m) for n in names))] for m in ("CoOp", "FVGPT_CoOp"))
    difference = [b - a for a, b in zip(coop, fvgpt)]
    return statistics.mean(difference), [statistics.pstdev(x) for x in (coop, fvgpt, difference)]


for names in [[n] for n in correlated] + [correlated]:
    mean, deviations = gap(names)
    text = f"{' + '.join(names)}: H of FVGPT_CoOp above CoOp's by {mean:.2f}; deviations: CoOp %.2f, FVGPT_CoOp %.2f, " \
           "difference %.2f" % tuple(deviations)
    if len(names) == 1:
        print("       " + text)
    else:
        check(mean > 2 * max(deviations), text)
mean, deviations = gap([control])
check(mean >= -0.5, f"control: H of FVGPT_CoOp above CoOp's by {mean:.2f}")
shares = {s["name"]: s["foreground_share"] for s in json.load(open(f"{build}/report/results.json"))["sets"]}
for name in correlated + [control]:
    clip, coop, fvgpt = (shares[name][m]["mean"] for m in ("zero_shot", "CoOp", "FVGPT_CoOp"))
    check(fvgpt > coop, f"{name}: share of the Grad-CAM on the object: CLIP {clip:.1f}, CoOp {coop:.1f}, FVGPT_CoOp {fvgpt:.1f}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
