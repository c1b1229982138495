#!/usr/bin/env python3
"""words.py BUILD - the tokenizer of BUILD/fvgpt against Python: what clip.tokenize does to a text before it looks for
merges, on every character and on many random texts, with Python's own unicodedata, html and str. ftfy's steps are
written here once more, from their documentation. Characters that this Python does not know are left out, since its
Unicode may be older than the header's. Needs the standard library only; ends with 'N passed, N failed'."""
import html, html.entities, os, random, re, subprocess, sys, unicodedata

build = sys.argv[1]
model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples", "tiny-clip")
passed = failed = 0

# ---- what the text should become ----
LIGATURES = {ord(a): b for a, b in zip("ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬅﬆ",
                                       "IJ ij DZ Dz dz DŽ Dž dž LJ Lj lj NJ Nj nj ff fi fl ffi ffl ſt st".split())}
LIGATURES[0x149] = "\u02bcn"
WIDTHS = {c: unicodedata.normalize("NFKC", chr(c)) for c in [0x3000, *range(0xFF01, 0xFFF0)]}
WINDOWS = {c: bytes([c]).decode("cp1252", "ignore") or chr(c) for c in range(0x80, 0xA0)}
QUOTES = {**{c: "'" for c in [0x2BC, *range(0x2018, 0x201C)]}, **{c: '"' for c in range(0x201C, 0x2020)}}
BREAKS = {0x2028: "\n", 0x2029: "\n"}
REMOVED = {c: None for c in [*range(9), 11, *range(14, 32), 127, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]}
NAMES = {n: c for n, c in html.entities.html5.items()
         if len(c) == 1 and (ord(c) < 0x180 or n.rstrip(";") in html.entities.name2codepoint or
                             n.startswith(tuple(n for n in html.entities.html5 if not n.endswith(";"))))}


def reference(match):
    name = match[0][1:]
    if name[0] == "#":
        text = html.unescape(match[0])
        return match[0] if ";" in text else text
    if name in NAMES or html.unescape(match[0]) != match[0]:
        return NAMES.get(name, match[0])
    return NAMES[name.lower()] if name == name.upper() and name.lower() in NAMES else match[0]


def repaired(text):
    tags = "<" in text
    while True:
        before = text
        if not tags:
            text = re.sub("&#?[0-9A-Za-z]{1,24};", reference, text)
        for table in WINDOWS, LIGATURES, WIDTHS, QUOTES, BREAKS:
            text = text.translate(table)
        text = re.sub("\x1b\\[[0-9;]*[A-Za-z]", "", text).translate(REMOVED)
        text = unicodedata.normalize("NFC", text)
        if text == before:
            return text


def pieces(text):
    text = " ".join(html.unescape(html.unescape(repaired(text))).split()).lower()
    at, found = 0, []
    while at < len(text):
        m = re.compile("<\\|(?:start|end)oftext\\|>|'(?:[stmdſ]|re|ve|ll)").match(text, at)
        kind = unicodedata.category(text[at])[0]
        if m:
            end = m.end()
        elif text[at] in " \u0345":
            at += 1
            continue
        else:
            end = at + 1
            while kind != "N" and end < len(text) and text[end] not in " \u0345":
                other = unicodedata.category(text[end])[0]
                if (other == "L") != (kind == "L") or other == "N":
                    break
                end += 1
        found.append(text[at:end])
        at = end
    return found


# ---- what it becomes ----
def vocabulary():
    plain = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
    order = plain + [b for b in range(256) if b not in plain]
    signs = {chr(b if b in plain else 256 + order.index(b) - len(plain)): b for b in order}
    tokens = [bytes([b]) for b in order] + [bytes([b, 32]) for b in order]                  # 32: the piece ends here
    for line in open(os.path.join(model, "merges.txt"), encoding="utf-8").read().split("\n")[1:]:
        word = "".join(line.split())
        if word:
            end = word.endswith("</w>")
            tokens.append(bytes(signs[ch] for ch in (word[:-4] if end else word)) + b" " * end)
    return tokens + [b"<|startoftext|> ", b"<|endoftext|> "]


def tokenized(lines):
    run = subprocess.run([os.path.join(build, "fvgpt"), "tokenize", "--model", model], stdout=subprocess.PIPE,
                         input="".join(line + "\n" for line in lines).encode())
    tokens = vocabulary()
    return [b"".join(tokens[int(i)] for i in line.split()).decode("utf-8", "replace")
            for line in run.stdout.decode().split("\n")[:-1]]


def compare(what, lines):
    global passed, failed
    got, wrong = tokenized(lines), 0
    for i, line in enumerate(lines):
        want = "".join(piece + " " for piece in pieces(line))
        if i >= len(got) or got[i] != want:
            wrong += 1
            if wrong <= 3:
                print(f"  {ascii(line)}: got {ascii(got[i]) if i < len(got) else 'nothing'}, want {ascii(want)}")
    passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{'FAILED ' if wrong else ''}{what}: {len(lines) - wrong} of {len(lines)} texts")


def main():
    known = [c for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co") and c not in (10, 13)]
    compare("every character alone", [chr(c) for c in known])
    compare("every character taken apart", [unicodedata.normalize("NFD", chr(c)) for c in known
                                           if unicodedata.decomposition(chr(c)) or 0xAC00 <= c < 0xD7A4])
    compare("every mark behind a letter and another mark",
            [a + chr(c) + b for c in known if unicodedata.combining(chr(c)) for a in "aX\u03b1" for b in "\u0301\u0323"])
    capitals = [n for n in NAMES if n == n.lower() and NAMES[n].upper().lower() == NAMES[n]]
    compare("every name of HTML that is known", ["x&" + n + "y &amp;" + n for n in NAMES] +
            ["<&" + n + " z" for n in NAMES] + ["&" + n.upper() + " z" for n in capitals])

    draw = random.Random(1)
    marks = [chr(c) for c in known if unicodedata.combining(chr(c))]
    parts = [chr(c) for c in known if unicodedata.decomposition(chr(c))]
    jamo = [chr(c) for c in [*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A7, 0x11C3), 0xAC00, 0xAC01, 0xD788]]
    odd = [chr(c) for c in [*WINDOWS, *LIGATURES, *WIDTHS, *QUOTES, *REMOVED] if c != 10 and unicodedata.category(chr(c)) != "Cn"]
    pools = [list("aeiouAEIOUsS'<>#&;xX0123 \t"), marks, marks, parts, jamo, jamo, odd, [chr(c) for c in known],
             ["&amp;", "&#233;", "&eacute;", "&lt;", "&eacute", "&hellip;", "&#x2019;", "\x1b[31m", "&AMP;", "\u0130", "\u03a3", "'s", "'ll"]]
    texts = []
    for _ in range(30000):
        few = [draw.choice(pools) for _ in range(draw.randint(1, 3))]
        texts.append("".join(draw.choice(draw.choice(few)) for _ in range(draw.randint(1, 14))))
    compare("random texts", [t for t in texts if "\r" not in t and "\n" not in t and "\0" not in t])


main()
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
