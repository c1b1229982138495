#!/usr/bin/env python3
"""How a C file reads: prints one line of a table for each file that is given.

    python3 tests/reading.py fvgpt.h fvgpt_clip.h [OTHER.c ...]      (needs universal-ctags)
    python3 tests/reading.py --places fvgpt.h                        the lines and functions that stand out

Columns: lines; functions, the median and the greatest of their lengths; tokens in a line of code; lines of more than
100 columns; lines with a comment; air, functions of 20 lines or more that have a blank line
inside; said, functions of 20 lines or more with a comment before or inside them.  Lines between "generated tables:
begin" and "generated tables: end" do not count."""
import json, re, subprocess, sys

TOKEN = re.compile(r'\w+|[^\w\s]')                          # a word, a number, or one sign of punctuation


def without_comments(text):
    """The text with comments blanked, line by line, and for each line whether a comment touches it."""
    out, touched, inside, i = [], set(), None, 0
    line = 0
    while i < len(text):
        two = text[i:i + 2]
        if inside is None and two in ('/*', '//'):
            inside = two
            touched.add(line)
            out.append('  ')
            i += 2
            continue
        if inside is None and text[i] in '"\'':
            end = i + 1
            while end < len(text) and text[end] != text[i] and text[end] != '\n':
                end += 2 if text[end] == '\\' else 1
            out.append(text[i:end + 1])
            i = end + 1
            continue
        if inside == '/*' and two == '*/':
            touched.add(line)
            inside = None
            out.append('  ')
            i += 2
            continue
        if text[i] == '\n':
            if inside == '//': inside = None
            line += 1
            if inside: touched.add(line)
            out.append('\n')
        else:
            out.append(text[i] if inside is None else ' ')
        i += 1
    return ''.join(out).split('\n'), touched


def functions(path):
    tags = subprocess.run(['ctags', '--languages=C', '--langmap=C:.c.h', '--kinds-C=f', '--fields=+ne',
                           '--output-format=json', '-f', '-', path], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in tags.stdout.splitlines()]
    return [(tag['name'], tag['line'] - 1, tag['end'] - 1) for tag in found if 'end' in tag]


def measure(path, places):
    text = open(path, encoding='utf-8').read()
    raw = text.split('\n')
    code, touched = without_comments(text)
    tables, skip = False, set()
    for i, line in enumerate(raw):
        if 'generated tables: begin' in line: tables = True
        if tables: skip.add(i)
        if 'generated tables: end' in line: tables = False
    lines = [i for i in range(len(raw)) if i not in skip]
    with_code = [i for i in lines if code[i].strip()]
    tokens = sum(len(TOKEN.findall(code[i])) for i in with_code) / max(1, len(with_code))
    wide = [i for i in lines if len(raw[i]) > 100]
    comments = sum(1 for i in lines if i in touched)
    found = functions(path)
    lengths = sorted(end - start + 1 for _, start, end in found)
    long = [f for f in found if f[2] - f[1] + 1 >= 20]
    airy = [f for f in long if any(not raw[i].strip() for i in range(f[1], f[2]))]
    said = [f for f in long if f[1] - 1 in touched or any(i in touched for i in range(f[1], f[2]))]
    part = lambda n, of: '%.1f %%' % (100 * n / max(1, of))
    print('| %s | %d | %d: %d / %d | %.1f | %s | %s | %d of %d | %d of %d |' % (
        path.split('/')[-1], len(raw) - 1, len(found), lengths[len(lengths) // 2] if lengths else 0,
        lengths[-1] if lengths else 0, tokens, part(len(wide), len(lines)), part(comments, len(lines)),
        len(airy), len(long), len(said), len(long)))
    if places:
        for i in wide: print('%s:%d: %d columns' % (path, i + 1, len(raw[i])))
        for name, start, end in long:
            faults = [what for what, bad in (('no air', (name, start, end) not in airy),
                                             ('nothing said', (name, start, end) not in said)) if bad]
            if faults: print('%s:%d: %s, %d lines: %s' % (path, start + 1, name, end - start + 1, ', '.join(faults)))


files = sys.argv[1:]
places = '--places' in files
files = [f for f in files if f != '--places']
if not files: sys.exit(__doc__)
print('| file | lines | functions: median / longest | tokens a line | > 100 col. | comments | air | said |')
print('|---|---|---|---|---|---|---|---|')
for f in files: measure(f, places)
