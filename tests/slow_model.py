"""A CLIP of real size with random weights, which makes all work long."""
import os, subprocess


def make_merges(path):
    """As many merges as CLIP has, of any two of the visible letters that stand for bytes."""
    letters = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    lines = [f"{a} {b}{end}" for end in ("", "</w>") for a in letters for b in letters]
    with open(path, "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "\n".join(lines[:48894]) + "\n")


def make(build, size, folder):
    """size: b32, b16 or l14."""
    os.makedirs(folder)
    make_merges(os.path.join(folder, "merges.txt"))
    weights = os.path.join(folder, "model.safetensors")
    subprocess.run([os.path.join(build, "random_clip"), size, "hf", weights], check=True)
