#!/usr/bin/env python3
"""Prints the Unicode tables of fvgpt_clip.h, chapter 1, as C text; paste its output over the old tables.

Needs nothing but Python's own library, whose version of Unicode is the one that comes out:

    python3 tools/unicode_tables.py

The properties are asked of str.lower itself where unicodedata does not name them: a character is "case-ignorable"
if the final-sigma rule looks through it.  Every table is decoded again and compared before anything is printed.
"""
import sys
import unicodedata

WIDTH = 118
LIMIT = 0x110000
SURROGATES = range(0xD800, 0xE000)
CAPITAL_SIGMA, FINAL_SIGMA = "\u03a3", "\u03c2"


def is_final(before):
    """Does str.lower take a capital sigma after `before` for the end of a word?"""
    return (before + CAPITAL_SIGMA).lower().endswith(FINAL_SIGMA)


def is_cased(ch):
    return ch.islower() or ch.isupper() or ch.istitle()


def is_ignorable(ch):
    return is_final("A" + ch) and not is_final(ch)


def runs_of(test):
    """Half-open intervals of the characters that pass the test."""
    runs = []
    for code in range(128, LIMIT):
        if code in SURROGATES or not test(chr(code)):
            continue
        if runs and runs[-1][1] == code:
            runs[-1][1] = code + 1
        else:
            runs.append([code, code + 1])
    return runs


def gaps_and_lengths(runs):
    """Numbers of 16 bits: how many characters to skip, how many to take, and so on, from U+0080."""
    numbers, position = [], 128
    for first, end in runs:
        gap = first - position
        while gap > 0xFFFF:
            numbers += [0xFFFF, 0]
            gap -= 0xFFFF
        assert end - first <= 0xFFFF
        numbers += [gap, end - first]
        position = end
    return numbers


def decode(numbers):
    members, position = set(), 128
    for gap, length in zip(numbers[::2], numbers[1::2]):
        position += gap
        members.update(range(position, position + length))
        position += length
    return members


def lower_rules():
    """(first, count, delta, stride): first, first + stride, ... (count of them) go to themselves + delta."""
    change = {}
    for code in range(128, LIMIT):
        if code in SURROGATES:
            continue
        lower = chr(code).lower()
        if code == 0x130:
            assert lower == "i\u0307"          # the one character that becomes two; the code treats it by itself
        elif lower != chr(code):
            assert len(lower) == 1
            change[code] = ord(lower) - code
    rules = []
    for code in sorted(change):
        delta = change[code]
        if rules and rules[-1][2] == delta:
            first, count, _, stride = rules[-1]
            step = code - (first + (count - 1) * stride)
            if step == stride or (count == 1 and step <= 2):
                rules[-1][1], rules[-1][3] = count + 1, step
                continue
        rules.append([code, 1, delta, 1])
    assert {f + i * s: d for f, n, d, s in rules for i in range(n)} == change
    return rules


def wrap(words):
    lines, line = [], " "
    for word in words:
        if len(line) + len(word) + 2 > WIDTH:
            lines.append(line)
            line = " "
        line += " " + word + ","
    lines.append(line.rstrip(","))
    return lines


def print_set(name, comment, test):
    numbers = gaps_and_lengths(runs_of(test))
    assert decode(numbers) == {c for c in range(128, LIMIT) if c not in SURROGATES and test(chr(c))}
    head, comment = "static const uint16_t %s[%d] = {" % (name, len(numbers)), "/* %s */" % comment
    print(head + comment.rjust(WIDTH - len(head)))
    print("\n".join(wrap([str(n) for n in numbers])))
    print("};")


def main():
    print("/* Unicode %s.  Characters from U+0080: how many to skip, how many are members, how many to skip, ... */"
          % unicodedata.unidata_version)
    print_set("fvg__unicode_letter", "L", lambda ch: unicodedata.category(ch)[0] == "L")
    print_set("fvg__unicode_number", "N", lambda ch: unicodedata.category(ch)[0] == "N")
    print_set("fvg__unicode_cased", "Cased", is_cased)
    print_set("fvg__unicode_ignorable", "Case_Ignorable", is_ignorable)
    rules = lower_rules()
    print("/* Lower case: first, first + stride, ... (count of them) become themselves + delta. */")
    print("static const struct { int32_t first, count, delta, stride; } fvg__unicode_lower[%d] = {" % len(rules))
    print("\n".join(wrap(["{%d,%d,%d,%d}" % tuple(r) for r in rules])))
    print("};")


if __name__ == "__main__":
    sys.exit(main())
