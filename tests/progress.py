#!/usr/bin/env python3
"""progress.py BUILD [tiny|b32|b16 [SECONDS]]: on a terminal progress is renewed at least every second, whatever takes how long.

fvgpt runs on a pseudo terminal.  The time between any two pieces of its output is measured, from the start to Ctrl-C,
and what came is put on a screen as a terminal would: nothing of progress may stay in other lines, and none is longer
than 80 columns.  With b32 or b16, a CLIP of that size with random weights, loading and single steps take seconds; tiny
is the CLIP of examples/.  The limit has slack for a busy machine: PROGRESS_LIMIT seconds, else 3.
"""
import os, pty, re, select, shutil, signal, subprocess, sys, time
import slow_model

build = sys.argv[1]
size = sys.argv[2] if len(sys.argv) > 2 else "b32"
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 4 if size == "tiny" else 60
limit = float(os.environ.get("PROGRESS_LIMIT", "3"))
work = os.path.join(build, "progress")
fvgpt = os.path.join(build, "fvgpt")
passed = failed = 0


def check(what, ok, seen=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED {what}: {seen!r}")


def on_terminal(arguments, stop_after=None):
    """What fvgpt prints on a terminal, the longest wait between two pieces of it and when it was, and the exit status."""
    ours, theirs = pty.openpty()
    p = subprocess.Popen([fvgpt, *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    begin = last = time.monotonic()
    waits, text = [], b""
    while True:
        ready, _, _ = select.select([ours], [], [], 0.05)
        now = time.monotonic()
        if stop_after and now - begin > stop_after:
            waits.append((now - last, now - begin, b"the stop"))
            stop_after = None
            p.send_signal(signal.SIGINT)
        if not ready:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:                                     # the other end is closed
            break
        if not piece:
            break
        waits.append((now - last, now - begin, piece[-50:]))
        last, text = now, text + piece
    os.close(ours)
    return text.decode(errors="replace"), max(waits), p.wait()


def screen(text):
    """The lines that are there in the end."""
    lines, at = [""], 0
    for piece in re.findall(r"\r\n|\r|\n|\x1b\[K|[^\r\n\x1b]+", text):
        if piece in ("\r\n", "\n"):
            lines.append("")
            at = 0
        elif piece == "\r":
            at = 0
        elif piece == "\x1b[K":
            lines[-1] = lines[-1][:at]
        else:
            lines[-1] = lines[-1][:at] + piece + lines[-1][at + len(piece):]
            at += len(piece)
    return [x for x in lines if x]


shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
model = "examples/tiny-clip"
if size != "tiny":
    model = os.path.join(work, "model")
    slow_model.make(build, size, model)
subprocess.run([os.path.join(build, "world"), os.path.join(work, "world"), "--set", "things", "--train", "8", "--test", "2"],
               check=True, stdout=subprocess.DEVNULL)
images = os.path.join(work, "world", "things", "images")
data = os.path.join(work, "data")
for name in sorted(os.listdir(images))[:4]:
    shutil.copytree(os.path.join(images, name), os.path.join(data, name))
picture = os.path.join(data, sorted(os.listdir(data))[0], "000.ppm")
run = ["tune", "--model", model, "--data", data, "--seeds", "1", "--shots", "4", "--augment", "none"]

# long work, until Ctrl-C: many short steps, or few long ones
trainer = ["--trainer", "CoOp", "--epochs", "60000"] if size == "tiny" else ["--trainer", "PromptSRC", "--batch", "8", "--epochs", "50000"]
text, longest, status = on_terminal([*run, *trainer, "--out", os.path.join(work, "long")], seconds)
print(f"longest wait in {seconds:.0f} s: {longest[0]:.2f} s, until {longest[1]:.1f} s, before {longest[2]!r}")
check("something at least every second", longest[0] < limit, longest)
check("many times", text.count("\r") >= seconds, text[-300:])
check("stopped", status == 130, status)
lines = screen(text)
check("the last line says so", lines[-1].startswith("fvgpt: stopped; "), lines[-3:])
shown = [x for x in re.split(r"[\r\n]+|\x1b\[K", text) if re.match(r"(encode|working|check|CoOp|PromptSRC) +\d", x)]
check("with the time that is left", [x for x in shown if re.search(r"/s  .* left  epoch ", x)], shown[-3:])
check("no line of progress is too long", shown and max(map(len, shown)) < 80, shown[-1:])
check("no progress stays in other lines", not [x for x in lines if re.search(r".working  |. left.*[a-z]: ", x)], lines)

# a whole run: what goes to stdout stands on the terminal line by line
if size == "tiny":
    short = [*run, "--trainer", "CoOp", "--epochs", "400"]
    text, longest, status = on_terminal([*short, "--out", os.path.join(work, "short")])
    piped = subprocess.run([fvgpt, *short, "--out", os.path.join(work, "short")], capture_output=True, text=True)
    lines = screen(text)
    missing = [x for x in piped.stdout.splitlines() if x and x not in lines]
    check("a run ends well", status == 0 and piped.returncode == 0, (status, piped.stderr))
    check("its output is whole", not missing, (missing, lines))
    text, longest, status = on_terminal([*short, "--quiet", "--out", os.path.join(work, "short")])
    check("--quiet: nothing else", [x.strip() for x in screen(text)] == [x.strip() for x in piped.stdout.splitlines() if x], text)

    # one long step, of which nothing is told meanwhile
    texts = [f"--text=thing number {i}" for i in range(40000)]
    text, longest, status = on_terminal(["encode", "--model", model, "--threads", "1", "--out", os.path.join(work, "f"), *texts], 2)
    check("a long step: something every second", status in (0, 130) and longest[0] < limit, longest)
    check("is work", text.count("working ") >= 2, text)
    check("of which nothing stays", len(screen(text)) == (status == 130), screen(text))

    # names that would move the cursor are harmless in data as well
    odd = os.path.join(work, "x\x1b[31my\u009bm.ppm")
    shutil.copy(picture, odd)
    for form, n_lines in (("--json", 4), ("--csv", 5)):
        text, longest, status = on_terminal(["classify", "--model", model, "--classes", "red,blue", form, odd, picture])
        check(form + ": no escapes reach a terminal", status == 0 and "\x1b[3" not in text and "\u009b" not in text, text)
        check(form + ": line by line", screen(text)[-1 - (form == "--json")] == "classify   2/2" and len(screen(text)) == n_lines + 1, screen(text))
shutil.rmtree(work)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
