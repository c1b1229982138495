#!/usr/bin/env python3
"""stop_soon.py BUILD [b32|b16|l14 [TIMES]]: Ctrl-C is obeyed within half a second by every command, whatever it is doing.

A CLIP of real size with random weights makes all work long.  Each command is sent SIGINT (every third time SIGTERM) after
delays that are spread over loading, encoding, training and measuring; it must end with 130 (143), with one line on
stderr that says what the same command does when it is given again.  The limit has slack for a busy machine:
STOP_LIMIT seconds, else 1.5; the slowest of all is printed, so that the half second can be read off.
"""
import os, random, shutil, signal, subprocess, sys, time
import slow_model

os.environ["FVGPT_CACHE"] = "none"                         # what is tested is computed

build = sys.argv[1]
size = sys.argv[2] if len(sys.argv) > 2 else "b32"
times = int(sys.argv[3]) if len(sys.argv) > 3 else 6
limit = float(os.environ.get("STOP_LIMIT", "1.5"))
work = os.path.join(build, "stop-soon")
fvgpt = os.path.join(build, "fvgpt")
passed = failed = 0


def stopped(name, arguments, delay, number, word):
    """The time from the signal to the end, or None when the command was over before it."""
    global passed, failed
    p = subprocess.Popen([fvgpt, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if name == "tokenize":
        p.stdin.write(b"a photo of a cat.\n")
        p.stdin.flush()
    time.sleep(delay)
    if p.poll() is not None:
        p.stderr.close()
        return None
    begin = time.monotonic()
    p.send_signal(number)
    message = p.stderr.read().decode(errors="replace")
    status = p.wait()
    spent = time.monotonic() - begin
    lines = [x for x in message.splitlines() if x.startswith("fvgpt: stopped")]
    if status == 128 + number and len(lines) == 1 and word in lines[0] and spent < limit:
        passed += 1
    else:
        failed += 1
        print(f"FAILED {name} after {delay:.2f} s: exit {status}, {spent:.2f} s, {message[-200:]!r}")
    return spent


shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
model = os.path.join(work, "model")
slow_model.make(build, size, model)
subprocess.run([os.path.join(build, "world"), os.path.join(work, "world"), "--set", "things", "--train", "2", "--test", "20"],
               check=True, stdout=subprocess.DEVNULL)
things = os.path.join(work, "world", "things")
data = os.path.join(work, "data")
for folder, to in ((os.path.join(things, "images"), data), (os.path.join(things, "mask", "images"), os.path.join(data, "mask"))):
    for name in sorted(os.listdir(folder))[:4]:
        shutil.copytree(os.path.join(folder, name), os.path.join(to, name))
pictures = [os.path.join(data, c, f) for c in sorted(os.listdir(data)) if c != "mask" for f in sorted(os.listdir(os.path.join(data, c)))]
few = os.path.join(work, "few")
for name in sorted(os.listdir(data)):
    for folder in [name] if name != "mask" else [os.path.join("mask", x) for x in os.listdir(os.path.join(data, "mask"))]:
        os.makedirs(os.path.join(few, folder))
        for f in sorted(os.listdir(os.path.join(data, folder)))[:6]:
            shutil.copy(os.path.join(data, folder, f), os.path.join(few, folder, f))

begin = time.monotonic()
run = ["--model", model, "--trainer", "FVGPT_CoOp", "--shots", "1", "--seeds", "1", "--epochs", "1", "--augment", "none"]
subprocess.run([fvgpt, "tune", *run, "--data", few, "--out", os.path.join(work, "done")], check=True,
               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
most = time.monotonic() - begin                             # loading, encoding and training all happen within this time
checkpoint = os.path.join(work, "done", "CoOp", "seed1")

commands = [
    ("info", ["info"], "anew"),
    ("tokenize", ["tokenize"], "anew"),
    ("encode", ["encode", "--out", os.path.join(work, "f.safetensors"), *[x for p in pictures for x in ("--image", p)]], "anew"),
    ("classify", ["classify", "--classes", "red,blue", "--checkpoint", checkpoint, *pictures], "anew"),
    ("attend", ["attend", "--text", "a red disc", "--out", os.path.join(work, "maps"), *pictures], "anew"),
    ("tune", ["tune", "--data", data, "--out", os.path.join(work, "out"), *run[2:]], "goes on"),
    ("tune PromptSRC", ["tune", "--data", few, "--out", os.path.join(work, "out2"), "--trainer", "PromptSRC", *run[4:]], "goes on"),
    ("masks", ["masks", "--data", data, "--out", os.path.join(work, "masks")], "goes on"),
    ("eval", ["eval", "--data", data, "--checkpoint", checkpoint, "--split-half", "all"], "anew"),
    ("report", ["report", "--data", few, "--runs", os.path.join(work, "done"), "--out", os.path.join(work, "page")], "anew"),
]
rng = random.Random(1)
for name, arguments, word in commands:
    slowest, count = 0.0, 0
    for i in range(times):
        number = signal.SIGTERM if i % 3 == 2 else signal.SIGINT
        spent = stopped(name, [arguments[0], "--model", model, *arguments[1:]], 0.05 + rng.random() * most * i / times, number, word)
        if spent is not None:
            slowest, count = max(slowest, spent), count + 1
    print(f"{name:16} stopped {count} times, within {slowest:.3f} s")
shutil.rmtree(work)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
