#!/usr/bin/env python3
"""Changes a header in one place at a time and asks whether the tests notice.

    python3 tests/mutants.py [-j N] [NAME-PART] FILE.txt...
    python3 tests/mutants.py --find [NAME-PART] FILE.txt...

Run by hand from the repository root: python3 tests/mutants.py tests/mutants_1.txt

A FILE.txt holds blocks with empty lines between them:

    # FVG-PT x MMRL: gate b from the mixed feature     what is changed; NAME-PART chooses by it
    file fvgpt.h                                       where
    - b = fvg__brg(m, x->f_score ? ...                 the text there, which must occur once
    + b = fvg__brg(m, p_full, p_clip);                 what it becomes (no such line: nothing)
    test test_fvgpt                                    the tests, one of which has to fail
    flags -fsanitize=address                           more for the compiler; may be missing

Old text is compared token by token: neither line breaks nor blanks matter, so it survives a new
layout.  Recordings are left out (FVGPT_SHARED): what these alone would notice does not count.
Each change is made in a copy below build/mutants.  Its line then reads

    caught          a test failed, crashed, hung, or made fewer checks than without the change
    SURVIVED        all of them passed: a test is missing
    not found       the old text does not occur, or more than once
    does not build  the compiler refused the change, which says nothing about the tests

and the exit code is 0 only if all are caught.

With --find nothing is changed, built or run: it only looks for each block's old text, which takes
a moment.  Blocks whose text does not occur exactly once have the line 'not found' above, the last
line counts both kinds, and the exit code is 0 only if all are found.  For use after a header was
rewritten.
"""
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys
import threading

ROOT = "build/mutants"
HEADERS = ["fvgpt.h", "fvgpt_clip.h"]
MOST_SECONDS = 600
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|\w+|\S')


def read_blocks(path):
    """The blocks of a file as dictionaries; `at` is where a block stands."""
    blocks, block = [], None
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            line = line.rstrip("\n")
            if not line.strip():
                block = None
                continue
            if block is None:
                block = {"name": "", "file": "", "old": [], "new": [], "tests": [], "flags": [],
                         "at": "%s:%d" % (path, number)}
                blocks.append(block)
            key, _, rest = line.partition(" ")
            if key == "#":
                block["name"] = (block["name"] + " " + rest).strip()
            elif key == "file":
                block["file"] = rest.strip()
            elif key == "-":
                block["old"].append(rest)
            elif key == "+":
                block["new"].append(rest)
            elif key == "test":
                block["tests"] += rest.split()
            elif key == "flags":
                block["flags"] += rest.split()
            else:
                sys.exit("%s:%d: a line begins with '# ', 'file ', '- ', '+ ', 'test ' or 'flags '"
                         % (path, number))
    for block in blocks:
        for part in ("name", "file", "old", "tests"):
            if not block[part]:
                sys.exit("%s: this block has no '%s'" % (block["at"], part))
    return blocks


def pattern_of(lines):
    """A pattern for the text whatever blanks and line breaks stand between its tokens."""
    tokens = TOKEN.findall("\n".join(lines))
    is_word = [re.match(r"\w", token) is not None for token in tokens]
    pattern = r"(?<!\w)" if is_word[0] else ""              # a word at either end is a whole word
    for i, token in enumerate(tokens):
        if i:
            pattern += r"\s+" if is_word[i - 1] and is_word[i] else r"\s*"
        pattern += re.escape(token)
    return re.compile(pattern + (r"(?!\w)" if is_word[-1] else ""))


def where_to_look(text, lines):
    """Lines of the header that hold the rarest word of the old text, as a hint."""
    words = {w for w in re.findall(r"\w{4,}", "\n".join(lines)) if w in text}
    if not words:
        return "none of its words is there"
    rare = min(words, key=lambda w: (len(re.findall(r"\b%s\b" % w, text)) or 9999, w))
    found = [i for i, line in enumerate(text.split("\n"), 1) if re.search(r"\b%s\b" % rare, line)]
    return "%s is on line %s" % (rare, ", ".join(map(str, found[:6])))


def changed(block):
    """The header with the block's change, or None and why not."""
    with open(block["file"], encoding="utf-8") as f:
        text = f.read()
    found = list(pattern_of(block["old"]).finditer(text))
    if len(found) != 1:
        hint = where_to_look(text, block["old"]) if not found else \
            "lines " + ", ".join(str(text.count("\n", 0, m.start()) + 1) for m in found[:6])
        return None, "%s: %d times in %s; %s" % (block["at"], len(found), block["file"], hint)
    return text[:found[0].start()] + "\n".join(block["new"]) + text[found[0].end():], ""


def compiler():
    cc = os.environ.get("CC", "cc")
    for header in ("stb/stb_image.h", "stb_image.h"):
        probe = subprocess.run([cc, "-E", "-"], input="#include <%s>\n" % header, text=True,
                               capture_output=True)
        if probe.returncode == 0:
            return [cc, "-std=c99", "-O1", "-DFVGPT_STB_IMAGE"]
    return [cc, "-std=c99", "-O1"]


def new_copy(folder):
    """Headers, tests and what these include or open, in a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder + "/build")
    os.makedirs(folder + "/tests")
    for path in glob.glob("tests/*.[ch]"):
        shutil.copy(path, folder + "/tests")
    shutil.copytree("tools", folder + "/tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree("examples", folder + "/examples")
    for header in HEADERS:
        shutil.copy(header, folder)


def run_test(folder, test, cc, flags):
    """'' and the counts if it passes, else what happened; None if it does not build."""
    program = "build/" + test
    command = cc + flags + ["tests/%s.c" % test, "-o", program, "-lm", "-lpthread"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if built.returncode:
        return None, 0, built.stderr
    environment = dict(os.environ)
    environment["FVGPT_SHARED"] = "no-recordings"
    try:
        ran = subprocess.run(["./" + program], cwd=folder, capture_output=True, env=environment,
                             timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        return "it hangs", 0, ""
    out = ran.stdout.decode("utf-8", "replace")
    counts = re.search(r"^(\d+) passed, (\d+) failed\s*\Z", out, re.M)
    first = re.search(r"^FAILED.*", out, re.M)
    if not counts:
        return "no result, exit code %d" % ran.returncode, 0, out
    if int(counts[2]) or ran.returncode:
        what = "%s failed, first: %s" % (counts[2], first[0][7:] if first else "?")
        return what, int(counts[1]), out
    return "", int(counts[1]), out


def try_mutant(block, folder, cc, checks):
    text, why = changed(block)
    if text is None:
        return "not found", why
    path = os.path.join(folder, block["file"])
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    try:
        for test in block["tests"]:
            what, passed, out = run_test(folder, test, cc, block["flags"])
            if what is None:
                why = re.search(r"error:.*", out)
                return "does not build", "%s: %s" % (test, why[0] if why else out[:100])
            if not what and passed < checks[test, tuple(block["flags"])]:
                what = "%d checks, not %d" % (passed, checks[test, tuple(block["flags"])])
            if what:
                return "caught", "%s: %s" % (test, what)
    finally:
        shutil.copy(block["file"], path)
    return "SURVIVED", " ".join(block["tests"])


def show(result, block, detail):
    print("%-14s  %s  (%s)" % (result, block["name"], detail), flush=True)


def find(blocks):
    """Tells which blocks' old text is not in the header exactly once."""
    lost = 0
    for block in blocks:
        text, why = changed(block)
        if text is None:
            lost += 1
            show("not found", block, why)
    print("%d found, %d not found" % (len(blocks) - lost, lost))
    return 1 if lost else 0


def main(arguments):
    jobs, part, blocks = 1, "", []
    only_find = "--find" in arguments
    arguments = [a for a in arguments if a != "--find"]
    if arguments[:1] == ["-j"]:
        jobs, arguments = int(arguments[1]), arguments[2:]
    if arguments and not arguments[0].endswith(".txt"):
        part, arguments = arguments[0], arguments[1:]
    if not arguments:
        sys.exit(__doc__)
    for path in arguments:
        blocks += [b for b in read_blocks(path) if part.lower() in b["name"].lower()]
    if only_find:
        return find(blocks)
    cc, checks, mine = compiler(), {}, threading.local()
    folders = iter(["%s/%d" % (ROOT, i) for i in range(jobs)])

    def in_folder(work):
        if not hasattr(mine, "folder"):
            mine.folder = next(folders)
            new_copy(mine.folder)
        return work(mine.folder)

    results = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        plain = sorted({(t, tuple(b["flags"])) for b in blocks for t in b["tests"]})
        runs = pool.map(lambda x: in_folder(lambda f: run_test(f, x[0], cc, list(x[1]))), plain)
        for test, (what, passed, out) in zip(plain, runs):
            if what is None or what:
                sys.exit("%s fails without any change: %s" % (test[0], what or out))
            checks[test] = passed
        runs = pool.map(lambda b: in_folder(lambda f: try_mutant(b, f, cc, checks)), blocks)
        for block, (result, detail) in zip(blocks, runs):
            results[result] = results.get(result, 0) + 1
            show(result, block, detail)
    caught, survived = results.pop("caught", 0), results.pop("SURVIVED", 0)
    others = "".join(", %d %s" % (n, result) for result, n in results.items())
    print("%d caught, %d survived%s" % (caught, survived, others))
    return 0 if caught == len(blocks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
