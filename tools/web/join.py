#!/usr/bin/env python3
"""join.py OUT - puts the page into one file: OUT/index.html, from tools/web/ and from what emcc wrote to OUT."""
import base64
import pathlib
import sys

here = pathlib.Path(__file__).parent
out = pathlib.Path(sys.argv[1])
model = here.parent.parent / "examples" / "tiny-clip"
LIMIT = 6_000_000                                  # bytes of the page


def script(text):
    """A script's text as it may stand inside of <script>."""
    return text.replace("</script", "<\\/script")


def data(name, content):
    return f'<script type="application/octet-stream" id="{name}">{base64.b64encode(content).decode()}</script>\n'


parts = ""
for build in ("simd", "scalar"):
    parts += f'<script type="text/plain" id="{build}-js">{script((out / (build + ".js")).read_text())}</script>\n'
    parts += data(f"{build}-wasm", (out / (build + ".wasm")).read_bytes())
for name in ("config.json", "merges.txt", "model.safetensors"):
    parts += data(name, (model / name).read_bytes())

page = (here / "page.html").read_text()
for mark, text in (
    ("/*INSERT style.css*/", (here / "style.css").read_text()),
    ("/*INSERT worker.js*/", script((here / "worker.js").read_text())),
    ("<!--INSERT data-->", parts),
    ("/*INSERT page.js*/", script((here / "page.js").read_text())),
):
    assert page.count(mark) == 1, f"page.html: {mark} must stand there once"
    page = page.replace(mark, text)

if len(page.encode()) > LIMIT:
    sys.exit(f"join.py: the page has {len(page.encode())} bytes, {LIMIT} are allowed")
(out / "index.html").write_text(page)
print(f"{out}/index.html: {len(page.encode()) / 1e6:.2f} MB in one file; open it in a browser")
