#!/usr/bin/env python3
"""windows.py BUILD: BUILD/windows/fvgpt.exe under wine does what BUILD/fvgpt does here: the same text, pictures and table,
byte for byte, and the same numbers but for the last bits, since exp, log and cos are the C library's.
"""
import json, os, shutil, struct, subprocess, sys, tempfile, time

os.environ["FVGPT_CACHE"] = "none"                         # what is tested is computed

build = sys.argv[1]
work = os.path.join(build, "windows", "work")
here = [os.path.join(build, "fvgpt")]
there = ["wine", os.path.join(build, "windows", "fvgpt.exe")]
model = "examples/tiny-clip"
passed = failed = 0


def check(what, right, message=""):
    global passed, failed
    passed, failed = passed + bool(right), failed + (not right)
    if not right: print(f"FAILED {what}: {message}")


def run(program, *arguments, input=b""):
    """As subprocess.run with capture_output, but through files: what wine starts beside a program would hold pipes open."""
    with tempfile.TemporaryFile() as i, tempfile.TemporaryFile() as o, tempfile.TemporaryFile() as e:
        i.write(input)
        i.seek(0)
        status = subprocess.run([*program, *arguments], stdin=i, stdout=o, stderr=e, timeout=600).returncode
        o.seek(0)
        e.seek(0)
        return subprocess.CompletedProcess(arguments, status, o.read(), e.read())


def both(what, *arguments, **more):
    a, b = run(here, *arguments, **more), run(there, *arguments, **more)
    check(what, a.returncode == b.returncode and a.stdout == b.stdout, (a, b))


def load(path):
    with open(path, "rb") as f: data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.get("__metadata__", {}).pop("checksum", None)
    header.get("__metadata__", {}).pop("epoch_loss", None)
    return header, struct.unpack(f"<{(len(data) - 8 - n) // 4}f", data[8 + n:])


def near(what, a, b):
    """Two safetensors: the same names, shapes and metadata, and numbers that differ by rounding only."""
    (head_a, x), (head_b, y) = load(a), load(b)
    largest = max(map(abs, x), default=0)
    furthest = max((abs(p - q) for p, q in zip(x, y)), default=0)
    check(what, head_a == head_b and len(x) == len(y) and furthest <= 1e-4 * largest, f"{furthest} of {largest}")


shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
subprocess.run([os.path.join(build, "world"), os.path.join(work, "world"), "--set", "things", "--train", "4", "--test", "1"],
               check=True, stdout=subprocess.DEVNULL)
data = os.path.join(work, "world", "things")
picture = os.path.join(data, "images", "star", "000.ppm")
common = ["--model", model, "--simd", "scalar"]
both("info", "info", *common)
both("help", "help")
both("tokenize, without CRs", "tokenize", *common, input=b"a photo of a star.\nred\r\n\n")
both("classify", "classify", *common, "--classes", "star,hammer,key", picture)
both("an error", "info", "--model", os.path.join(work, "nowhere"))
for name in ("out.ppm", "out.png"):
    made = []
    for program in (here, there):
        path = os.path.join(work, name)
        run(program, "preprocess", "--size", "40", picture, path)
        with open(path, "rb") as f: made.append(f.read())
        os.remove(path)
    check(f"preprocess to {name}", made[0] == made[1])
for program, name in ((here, "here"), (there, "there")):
    run(program, "encode", *common, "--image", picture, "--text", "a star", "--out", os.path.join(work, name + ".safetensors"))
near("encode", os.path.join(work, "here.safetensors"), os.path.join(work, "there.safetensors"))

tune = ["tune", *common, "--data", data, "--trainer", "FVGPT_CoOp", "--shots", "2", "--seeds", "1", "--epochs", "2", "--augment", "none"]
tables = [run(program, *tune, "--threads", str(threads), "--out", os.path.join(work, name))
          for program, name, threads in ((here, "a", 1), (there, "b", 1), (there, "c", 3))]
check("tune", all(t.returncode == 0 for t in tables), tables)
check("the same table", tables[0].stdout == tables[1].stdout == tables[2].stdout, tables)
for stage in ("CoOp", "FVGPT_CoOp"):
    path = os.path.join(stage, "seed1", "checkpoint.safetensors")
    near(f"{stage}'s checkpoint", os.path.join(work, "a", path), os.path.join(work, "b", path))
    with open(os.path.join(work, "b", path), "rb") as f, open(os.path.join(work, "c", path), "rb") as g:
        check(f"{stage}'s is the same for three threads", f.read() == g.read())
results = []
for name in "ab":
    with open(os.path.join(work, name, "results.json")) as f: results.append(json.load(f))
check("the same results", results[0]["rows"] == results[1]["rows"] and results[0]["mean"] == results[1]["mean"])
again = run(there, *tune, "--out", os.path.join(work, "b"))
check("which are used again", again.stdout == tables[0].stdout and again.stderr.count(b"reusing") == 2, again)
check("nothing else is left", sorted(os.listdir(os.path.join(work, "b"))) == ["CoOp", "FVGPT_CoOp", "results.csv", "results.json", "run.json", "zero_shot"],
      os.listdir(os.path.join(work, "b")))

first = subprocess.Popen([*there, *tune, "--epochs", "4000", "--out", os.path.join(work, "locked")],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while first.poll() is None and not os.path.exists(os.path.join(work, "locked", ".fvgpt.lock")): time.sleep(0.05)
second = run(there, *tune, "--epochs", "4000", "--out", os.path.join(work, "locked"))
check("a second run into its folder stops", second.returncode == 1 and b"another fvgpt" in second.stderr, second.stderr[-300:])
first.kill()
first.communicate()
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
