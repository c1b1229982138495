#!/usr/bin/env python3
"""Prints the tables of the last chapter of fvgpt_clip.h as C text; paste its output over the old ones, from the line
"generated tables: begin" to the line "generated tables: end".

Needs nothing but Python's own library, whose version of Unicode is the one that comes out (15.1 with Python 3.13):

    python3 tools/unicode_tables.py

A table is a list of whole numbers, written as text: letters above the backslash are leading digits, counted from 1
in base 34, and the letter that closes the number is a digit in base 56.  Every table is decoded again and compared
before anything is printed.  The properties are asked of str.lower itself where unicodedata does not name them: a
character is "case-ignorable" if the final-sigma rule looks through it.
"""
import html.entities
import sys
import unicodedata

WIDTH = 100
LIMIT = 0x110000
SURROGATES = range(0xD800, 0xE000)
CAPITAL_SIGMA, FINAL_SIGMA = "\u03a3", "\u03c2"
LETTER, NUMBER, CASED, IGNORABLE, CLASS = 1, 2, 4, 8, 16
CODES = [code for code in range(LIMIT) if code not in SURROGATES]


# ---- numbers as text ----
def pack(number):
    high, last = divmod(number, 56)
    text = chr(35 + last + (last >= 28))                   # "#" to "[", without "?", which could make trigraphs
    while high:
        high, digit = divmod(high - 1, 34)
        text = chr(93 + digit) + text                      # "]" to "~"
    return text


def unpack(lines):
    numbers, high = [], 0
    for letter in "".join(lines):
        code = ord(letter)
        if code > 92:
            high = high * 34 + code - 92
        else:
            numbers.append(high * 56 + code - 35 - (code > 63))
            high = 0
    return numbers


def zigzag(delta):
    """0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4 ..."""
    return 2 * delta if delta >= 0 else -2 * delta - 1


def unzigzag(number):
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


# ---- properties ----
def is_final(before):
    """Does str.lower take a capital sigma after `before` for the end of a word?"""
    return (before + CAPITAL_SIGMA).lower().endswith(FINAL_SIGMA)


def property_of(code):
    if code in SURROGATES:
        return 0
    ch = chr(code)
    category = unicodedata.category(ch)[0]
    return ((category == "L") * LETTER + (category == "N") * NUMBER +
            (ch.islower() or ch.isupper() or ch.istitle()) * CASED +
            (is_final("A" + ch) and not is_final(ch)) * IGNORABLE + unicodedata.combining(ch) * CLASS)


def properties():
    """Runs of characters with one property, from U+0000: length, property, length, property, ..."""
    values = [property_of(code) for code in range(LIMIT)]
    numbers = []
    for code, value in enumerate(values):
        if code == 0 or value != values[code - 1]:
            numbers += [0, value]
        numbers[-2] += 1
    decoded = []
    for length, value in zip(numbers[::2], numbers[1::2]):
        decoded += [value] * length
    assert decoded == values
    return numbers


# ---- mappings ----
def encode_mapping(mapping):
    """4 gap + n, then each of the n characters; 4 step, count: the same once more, `count` times, `step` further on."""
    numbers, entries, at, last, i = [], sorted(mapping.items()), 0, [0, 0, 0], 0
    while i < len(entries):
        code, to = entries[i]
        count, step = 0, 0
        if i and len(to) == 1 and len(entries[i - 1][1]) == 1:
            step = code - at
            while (i + count < len(entries) and entries[i + count][0] == at + step * (count + 1) and
                   entries[i + count][1] == [last[0] + step * (count + 1)]):
                count += 1
        if count:
            numbers += [4 * step, count]
            at, last[0] = at + step * count, last[0] + step * count
            i += count
            continue
        numbers.append(4 * (code - at) + len(to))
        for k, ch in enumerate(to):
            numbers.append(zigzag(ch - last[k]))
            last[k] = ch
        at = code
        i += 1
    assert decode_mapping(numbers) == mapping
    return numbers


def decode_mapping(numbers):
    mapping, at, last, rest = {}, 0, [0, 0, 0], iter(numbers)
    for number in rest:
        gap, n = divmod(number, 4)
        if n == 0:
            for _ in range(next(rest)):
                at, last[0] = at + gap, last[0] + gap
                mapping[at] = [last[0]]
            continue
        at += gap
        for k in range(n):
            last[k] += unzigzag(next(rest))
        mapping[at] = last[:n]
    return mapping


def lower_case():
    """Characters with another lower case, but U+0130, which becomes two; the code treats it by itself."""
    return {code: [ord(chr(code).lower())] for code in CODES if chr(code).lower() != chr(code) and code != 0x130}


def canonical():
    """Pairs that NFC joins, and what it only takes apart.  Hangul goes by rule."""
    composed, decomposed = {}, {}
    for code in CODES:
        text = unicodedata.decomposition(chr(code))
        if not text or text[0] == "<":
            continue
        to = [int(x, 16) for x in text.split()]
        joined = unicodedata.normalize("NFC", "".join(map(chr, to)))
        (composed if len(to) == 2 and joined == chr(code) else decomposed)[code] = to
    for to in [*composed.values(), *decomposed.values()]:
        assert len(to) == 1 or not unicodedata.decomposition(chr(to[1]))            # only the first goes on
    for code in CODES:                                     # the code's buffers rely on this
        size = len(chr(code).encode())
        assert len(unicodedata.normalize("NFC", chr(code))) <= size
        assert len(unicodedata.normalize("NFD", chr(code))) <= 2 * size
        assert sum(unicodedata.combining(ch) > 0 for ch in unicodedata.normalize("NFD", chr(code))) <= size
    return composed, decomposed


def repaired():
    """What ftfy.fix_text replaces by itself: straight quotes, Latin ligatures and digraphs, the widths of East Asia,
    and control characters that Windows-1252 has a sign for."""
    to = {0x2BC: "'"}
    to.update({code: "'" for code in range(0x2018, 0x201C)})
    to.update({code: '"' for code in range(0x201C, 0x2020)})
    for code in [0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), 0xFB00, 0xFB01, 0xFB02, 0xFB03,
                 0xFB04, 0xFB05, 0xFB06, *range(0xFF01, 0xFFF0)]:
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", chr(code)))
        if text != chr(code):
            to[code] = text
    to[0x149] = "'n"                                       # by way of U+02BC, which is a quote to ftfy
    to[0xFB05] = "\u017ft"
    for code in range(0x80, 0xA0):
        text = bytes([code]).decode("cp1252", "ignore")
        if text:
            to[code] = to.get(ord(text), text)
    assert all(len(unicodedata.normalize("NFD", text)) <= 2 * len(chr(code).encode()) for code, text in to.items())
    assert all(len(text) <= len(chr(code).encode()) for code, text in to.items())
    return {code: [ord(ch) for ch in text] for code, text in to.items()}


# ---- HTML ----
def html_names(names):
    """Words: a number is the code of the name that follows it, the next name's is one more."""
    words, at = [], None
    for code, name in sorted((ord(html.entities.html5[name]), name.rstrip(";")) for name in names):
        if code != at:
            words.append(str(code))
        words.append(name)
        at = code + 1
    return words


def old_and_new_names():
    """The names that need no semicolon; and those that do: HTML 4's, HTML 5's up to U+017F, and those of HTML 5 that
    begin with an old one, since else the old one would be read there."""
    html5 = html.entities.html5
    old = [name for name in html5 if not name.endswith(";")]
    new = [name for name, text in html5.items() if name.endswith(";") and name[:-1] not in old and len(text) == 1 and
           (ord(text) < 0x180 or name[:-1] in html.entities.name2codepoint or name.startswith(tuple(old)))]
    return old, new


# ---- C ----
def print_table(name, comment, words, between):
    assert len(comment) <= WIDTH - 6
    print("\n/* %s */" % comment)
    print("static const char *const %s[] = {" % name)
    lines, line = [], ""
    for word in words:
        if len(line) + len(between) + len(word) > WIDTH - 6:
            lines.append(line)
            line = ""
        line += between * bool(line) + word
    lines.append(line)
    for line in lines:
        print('  "%s",' % line)
    print("  NULL\n};")
    return lines


def print_numbers(name, comment, numbers):
    assert unpack(print_table(name, comment, [pack(number) for number in numbers], "")) == numbers


def main():
    composed, decomposed = canonical()
    old, new = old_and_new_names()
    print("/* generated tables: begin */")
    print("/* tools/unicode_tables.py printed them, from Unicode %s. */" % unicodedata.unidata_version)
    print_numbers("fvg__unicode_properties",
                  "Runs from U+0000: length, property (1 L, 2 N, 4 Cased, 8 Case_Ignorable, 16 combining class).",
                  properties())
    print_numbers("fvg__unicode_lower", "Maps characters to lower case.", encode_mapping(lower_case()))
    print_numbers("fvg__unicode_composed", "Maps characters to the pairs that NFC composes to them.",
                  encode_mapping(composed))
    print_numbers("fvg__unicode_decomposed", "Maps characters to what NFC writes in their place.", encode_mapping(decomposed))
    print_numbers("fvg__unicode_repaired", "Maps quotes, ligatures, widths and Windows-1252 to what ftfy writes.",
                  encode_mapping(repaired()))
    print_table("fvg__html_old_names", "HTML's names that need no semicolon; a number is the character of the next name.",
                html_names(old), " ")
    print_table("fvg__html_names", "Names that need one: the others of HTML 4, and some of HTML 5's.",
                html_names(new), " ")
    print("/* generated tables: end */")


if __name__ == "__main__":
    sys.exit(main())
