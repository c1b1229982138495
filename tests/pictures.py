#!/usr/bin/env python3
"""Pictures of many forms, made here, as `fvgpt preprocess` reads them, against Pillow's convert("RGB").
$1: the folder with fvgpt.  Needs numpy and Pillow.  All pictures are square, since preprocess writes squares."""
import io, os, struct, subprocess, sys, tempfile, zlib
import numpy
from PIL import Image, ImageOps

os.environ["FVGPT_CACHE"] = "none"                         # what is tested is computed

fvgpt = os.path.join(sys.argv[1], "fvgpt")
folder = tempfile.mkdtemp()
random = numpy.random.default_rng(1)
files = {}                                   # name: the most that a value may be off


def noise(n):
    return random.integers(0, 256, n, dtype=numpy.uint8).tobytes()


def put(name, data, off=0):
    files[name] = off
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def save(image, name, off=0, **options):
    out = io.BytesIO()
    image.save(out, name.rsplit(".")[-1].replace("jpg", "jpeg"), **options)
    put(name, out.getvalue(), off)
    return out.getvalue()


# ---- PNG: every kind and depth, all filters, interlaced, palettes too short, transparency ----
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(row, depth):
    bits = "".join(format(int(x), f"0{depth}b") for x in row)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))


def filtered(rows, step):
    out, above = b"", bytes(len(rows[0]))
    for i, row in enumerate(rows):
        line = bytearray([i % 5])
        for k, x in enumerate(row):
            a, b = (row[k - step] if k >= step else 0), above[k]
            c = above[k - step] if k >= step else 0
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            line.append((x - (0, a, b, (a + b) // 2, nearest)[i % 5]) & 255)
        out, above = out + bytes(line), row
    return out


def png(size, depth, colour, interlaced, clear, level):
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    value = random.integers(0, 1 << depth, (size, size, samples))
    passes = [(0, 0, 1, 1)] if not interlaced else [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
                                                    (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, dx, dy in passes:
        part = value[y::dy, x::dx]
        if part.size:
            raw += filtered([packed(r.reshape(-1), depth) for r in part], max(1, samples * depth // 8))
    data = zlib.compress(raw, level)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, depth, colour, 0, 0, interlaced))
    if colour == 3:
        out += chunk(b"PLTE", noise(3 * max(1, (1 << depth) - 1)))
    if clear and colour < 4:
        out += chunk(b"tRNS", bytes(range(min(3, 1 << depth))) if colour == 3 else b"\0\1" * samples)
    return out + chunk(b"IDAT", data[:9]) + chunk(b"IDAT", data[9:]) + chunk(b"IEND", b"")


number = 0
for colour, depths in {0: (1, 2, 4, 8), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
    for depth in depths:
        for interlaced in (0, 1):
            for size in (1, 5, 33):
                number += 1
                put(f"png-{colour}-{depth}-{interlaced}-{size}.png",
                    png(size, depth, colour, interlaced, number % 2, (0, 1, 6, 9)[number % 4]))

# ---- what Pillow writes itself ----
y, x = numpy.mgrid[0:96, 0:96]
photo = numpy.stack([128 + 100 * numpy.sin(x / 9), y * 255 / 95, 128 + 90 * numpy.cos((x + y) / 13)], -1)
photo = Image.fromarray(photo.clip(0, 255).astype(numpy.uint8))
for mode in ("1", "L", "P", "RGB", "RGBA"):
    save(photo.convert(mode), f"mode-{mode}.png")
    save(photo.convert(mode).resize((33, 33)), f"mode-{mode}.bmp")
for mode in ("1", "L", "P"):
    for interlaced in (0, 1):
        save(photo.convert(mode), f"mode-{mode}-{interlaced}.gif", interlace=interlaced)
save(photo.convert("P"), "clear.gif", transparency=3)
save(photo, "frames.gif", save_all=True, append_images=[photo.rotate(90)])
save(photo, "frames.png", save_all=True, append_images=[photo.rotate(90)])
save(Image.fromarray(random.integers(0, 256, (200, 200), dtype=numpy.uint8)), "noise.gif")

# ---- BMP: depths, headers, masks ----
def bmp(size, bits, header, compression=0, masks=b"", palette=b"", down=False):
    data = noise((size * bits + 31) // 32 * 4 * size)
    head = struct.pack("<IiiHHIIiiII", header, size, -size if down else size, 1, bits, compression, 0, 0, 0, 0, 0)
    head += masks if header > 40 else b""
    head += bytes(header - len(head)) + (masks if header == 40 else b"")
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


for size in (7, 32):
    for bits in (1, 4, 8):
        for header in (40, 64, 124):
            put(f"bmp-{bits}-{header}-{size}.bmp", bmp(size, bits, header, palette=noise(4 << bits)))
        put(f"bmp-{bits}-down-{size}.bmp", bmp(size, bits, 40, palette=noise(4 << bits), down=True))
    for bits in (16, 24, 32):
        put(f"bmp-{bits}-{size}.bmp", bmp(size, bits, 40))
    for mask in ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)):
        put(f"bmp-16-{mask[0]:x}-{size}.bmp", bmp(size, 16, 40, 3, struct.pack("<III", *mask)))
    for mask in ((0xFF0000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000, 0xFF000000)):
        put(f"bmp-32-{mask[0]:x}-{size}.bmp", bmp(size, 32, 108, 3, struct.pack("<IIII", *mask)))

# ---- JPEG: colour spaces with and without Adobe's segment; decoders differ by a few levels ----
for mode in ("L", "RGB", "CMYK"):
    for progressive in (False, True):
        data = save(photo.convert(mode), f"{mode}-{progressive}.jpg", 8, quality=92, progressive=progressive)
        at = data.find(b"Adobe")
        if mode == "CMYK":
            put(f"no-adobe-{progressive}.jpg", data[:at - 4] + data[at + 12:], 8)
            for transform in (1, 2):
                put(f"ycck-{transform}-{progressive}.jpg", data[:at + 11] + bytes([transform]) + data[at + 12:], 8)

# ---- EXIF: every orientation, against ImageOps.exif_transpose ----
turned = set()
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, off in ((f"turned-{orientation}.png", 0), (f"turned-{orientation}.jpg", 8)):
        save(photo, name, off, exif=exif.tobytes(), quality=92)
        turned.add(name)


def read(name, *options):
    path, out = os.path.join(folder, name), os.path.join(folder, "out.ppm.png")
    size = Image.open(path).size[0]
    run = subprocess.run([fvgpt, "preprocess", "--crop", f"0,0,{size},{size}", "--size", str(size), "--nearest", *options,
                          path, out], capture_output=True, text=True)
    if run.returncode:
        return None, run.stderr.strip()
    return numpy.array(Image.open(out).convert("RGB")).astype(int), run.stderr.strip()


passed = failed = 0


def check(name, got, message, want, off):
    global passed, failed
    ok = got is not None and got.shape == want.shape and abs(got - want).max() <= off
    passed, failed = passed + ok, failed + (not ok)
    if not ok:
        print(f"FAILED {name}: {message or 'other pixels'}")


for name, off in files.items():
    image = Image.open(os.path.join(folder, name))
    image.load()
    got, message = read(name)
    check(name, got, message, numpy.array(image.convert("RGB")).astype(int), off)
    if name in turned:
        got, message = read(name, "--exif-rotate")
        check(name + " turned", got, message, numpy.array(ImageOps.exif_transpose(image).convert("RGB")).astype(int), off)
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
