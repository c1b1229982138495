#!/usr/bin/env python3
"""coverage.py BUILD: which share of the headers' lines the fuzzers' inputs run, chapter by chapter.

The inputs are those that `make fuzz` keeps in BUILD/fuzz/NAME/corpus.  Every fuzzer of a parser is built anew with
clang's coverage and given its inputs once.  Chapters of which nothing is run are not printed.  Wants clang, llvm-profdata
and llvm-cov.
"""
import glob, os, re, shutil, subprocess, sys

build = os.path.abspath(sys.argv[1])
work = os.path.join(build, "coverage")
flags = ["clang", "-std=c99", "-O1", "-fprofile-instr-generate", "-fcoverage-mapping", "-DFVGPT_STB_IMAGE"]
library = os.path.join(work, "library.o")


def tool(name):
    """llvm-cov, or llvm-cov-14."""
    found = sorted(glob.glob(f"/usr/bin/{name}-[0-9]*"))
    return shutil.which(name) or (found[-1] if found else sys.exit(f"coverage.py: {name} is not installed"))


def run(*command, **more):
    subprocess.run(command, check=True, **more)


def run_inputs(name, linked):
    """Builds a fuzzer and gives it its inputs; the program's path."""
    program = os.path.join(work, name)
    bodies = ["-include", "tests/linked.h", library, "-lpthread"] if f"fuzz_{name}" in linked else ["-DFVGPT_STATIC"]
    run(*flags, "-fsanitize=fuzzer", "-DFVG_LIBFUZZER", f"tests/fuzz_{name}.c", *bodies, "-lm", "-o", program)
    env = {**os.environ, "LLVM_PROFILE_FILE": program + ".profraw", "FVGPT_CACHE": "none"}
    with open(program + ".log", "w") as log:
        run(program, "-runs=0", os.path.join(build, "fuzz", name, "corpus"), cwd=work, env=env, stderr=log, stdout=log)
    return program


def counts(report):
    """How often each line of each header was run: {header: {line: times}}."""
    lines, header = {"fvgpt.h": {}, "fvgpt_clip.h": {}}, None
    for entry in report.splitlines():
        if entry.startswith("SF:"):
            header = lines.get(os.path.basename(entry[3:]))
        elif entry.startswith("DA:") and header is not None:
            line, times = map(int, entry[3:].split(",")[:2])
            header[line] = max(times, header.get(line, 0))
    return lines


os.makedirs(work, exist_ok=True)
linked = subprocess.run(["make", "-s", "linked"], capture_output=True, text=True, check=True).stdout.split()
names = sorted(os.path.basename(os.path.dirname(x)) for x in glob.glob(os.path.join(build, "fuzz", "*", "corpus")))
names = [x for x in names if x != "stores"]                        # which are the programs' and not the headers'
if not names:
    sys.exit(f"coverage.py: no inputs in {build}/fuzz; make fuzz finds some")
run(*flags, "-DFVGPT_PTHREADS", "-DFVGPT_DIRENT", "-fsanitize=fuzzer-no-link", "-c", "tools/fvgpt_library.c", "-o", library)
programs = [run_inputs(x, linked) for x in names]
profile = os.path.join(work, "all.profdata")
run(tool("llvm-profdata"), "merge", "-o", profile, *[x + ".profraw" for x in programs])
objects = [y for x in programs[1:] for y in ("-object", x)]
report = subprocess.run([tool("llvm-cov"), "export", "-format=lcov", programs[0], *objects, f"-instr-profile={profile}"],
                        capture_output=True, text=True, check=True).stdout

for header, times in counts(report).items():
    text = open(header).read().splitlines()
    starts = [(i, m.group(1)) for i, line in enumerate(text, 1) if (m := re.match(r" \* (CHAPTER .*)", line))]
    for (first, title), (end, _) in zip(starts, starts[1:] + [(len(text) + 1, "")]):
        mine = [times[i] for i in range(first, end) if i in times]
        if any(mine):
            print(f"{header:14}{sum(x > 0 for x in mine) / len(mine):6.0%} of {len(mine):4} lines  {title}")
