#!/usr/bin/env python3
"""Measures the cases of build/bench in other programs, taking turns with it.

    python3 tools/bench_peers.py [BUILD] [--ort FOLDER] [--threads N] [--rounds 7] [--case NAME,...] [--cpu]
                                  [--markdown]

BUILD is the folder that holds `bench` (make all).  A peer that is not installed is left out; a line says so:

    PyTorch       Debian: apt install python3-torch libopenblas0-openmp, and run this script with /usr/bin/python3;
                  the OpenMP build of OpenBLAS in /usr/lib/x86_64-linux-gnu/openblas-openmp is put first in
                  LD_LIBRARY_PATH (the other one is slow when it meets PyTorch's own threads)
    ONNX Runtime  npm install --ignore-scripts onnxruntime-node in some folder, given by --ort FOLDER; needs node,
                  and PyTorch, which writes the models
    OpenBLAS      apt install libopenblas0-openmp; called through ctypes
    Pillow        apt install python3-pil

On a shared machine only ratios of times measured side by side mean anything.  Each program is a process that waits
for a line with a number K, runs K steps and answers with the milliseconds of one.  They take turns, ours and a
peer's, so that both see the same neighbours; K is what about a quarter of a second holds.  The ratio is the median
over all turns of the peer's time over ours: above 1 we are faster.  Between turns all is still for half a second:
ONNX Runtime's threads go on spinning for about that long, and would take a core away from whoever comes next.  Let
nothing else run, and do not use nice: OpenMP's threads wait for one another by spinning, and a core that something
else takes away makes peers look ten times slower than they are.  Where others are at work, --cpu --threads 1 compares
the processor time of one thread, which waits for nobody; neighbours still take caches and memory from both sides.
With two threads OMP_WAIT_POLICY=passive, which is passed on, spares a busy machine the spinning.

What the sides compute is not the same everywhere.  Our weights are packed when they are loaded, as ONNX Runtime's may
be; OpenBLAS and PyTorch pack at each product.  We compute a start that all prompts share once, and in the last block
only the rows that are read; peers compute everything.  Pillow resizes the whole picture and crops, as torchvision
does; we compute the crop alone.  Texts: padded to 77 tokens, as published, and cut to 10, our longest.  Steps of prompt
learners: 77 tokens, and cut by hand to 8, which is less than our prompts have (8 to 10).  FVG-PT steps in PyTorch as our
chapter on it writes them, on 1 thread and on N.

PromptSRC, MaPLe and MMRL train on 4 pictures, ViT-B/16, CoCoOp on the feature of one.  Zero-shot CLIP's features of the
pictures and of the classes are given to both sides, though published code of PromptSRC and MMRL encodes the pictures
again at every step.  Eight bits in ONNX Runtime are its dynamic quantisation: every product with weights becomes
DynamicQuantizeLinear and MatMulInteger, with one scale for each matrix.  PyTorch's bfloat16 is the model and its input
in that type; dynamic quantisation in PyTorch is that of torch.ao.
"""
import argparse
import ctypes
import datetime
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

CASES = ("gemm_197x768x768 gemm_197x3072x768 gemm_50x3072x768 gemm_77x512x512 gemm_1540x2048x512 gemm_1024x1024x1024 "
         "image_b32_1 image_b32_8 image_b16_1 image_b16_8 text_20 text_50 coop_step_20 coop_step_50 "
         "fvg_step_20 fvg_step_50 preprocess_1200x900 image_b32_1_q8 image_b16_1_q8 image_b32_1_bf16 image_b16_1_bf16 "
         "cocoop_step_20 promptsrc_step_20 maple_step_20 mmrl_step_20").split()
OPENBLAS = "/usr/lib/x86_64-linux-gnu/openblas-openmp"
BATCH, N_CTX, EMBED, VOCAB, CONTEXT, LAYERS, HEAD = 4, 4, 512, 49408, 77, 12, 64
IMAGE, IMAGE_WIDTH, TEXT_WIDTH = 224, 768, 512
DEPTH = 9                                       # of PromptSRC's and MaPLe's prompts
REP_TOKENS, REP_WIDTH, REP_FIRST = 5, 512, 5    # MMRL's tokens, and the first block that has them
TURN_MS, PAUSE = 250, 0.5
LABELS = [3, 11, 7, 0]


KNOWN = (r"gemm_\d+x\d+x\d+|image_b(16|32)_\d+(_q8|_bf16)?|text_\d+|preprocess_\d+x\d+|"
         r"(coop|cocoop|promptsrc|maple|mmrl|fvg)_step_\d+")


def cases(text):
    """--case: names like those of CASES, with other numbers."""
    names = text.split(",")
    for name in names:
        if not re.fullmatch(KNOWN, name):
            raise argparse.ArgumentTypeError(f"{name}: a case such as {CASES[0]}, image_b16_1_q8, text_20, coop_step_50, "
                                             "preprocess_1200x900 is expected")
    return names


def numbers(case):
    return [int(x) for x in re.findall(r"\d+", case)]


def peers_of(case, threads):
    """(name in the table, kind of child, variant, threads)"""
    if case.startswith("gemm"):
        return [("OpenBLAS", "openblas", "", threads), ("PyTorch", "torch", "", threads)]
    if case.endswith("q8"):
        return [("ours, f32", "bench", case[:-3], threads), ("PyTorch, int8", "torch", "", threads),
                ("ONNX Runtime, int8", "ort", "", threads)]
    if case.endswith("bf16"):
        return [("ours, f32", "bench", case[:-5], threads), ("PyTorch, bfloat16", "torch", "", threads)]
    if case.startswith("image"):
        return [("PyTorch", "torch", "", threads), ("ONNX Runtime", "ort", "", threads)]
    if case.startswith("text"):
        return [(f"{name}, {tokens} tokens", kind, str(tokens), threads)
                for name, kind in (("PyTorch", "torch"), ("ONNX Runtime", "ort")) for tokens in (CONTEXT, 10)]
    if "_step_" in case and not case.startswith("fvg"):
        return [("PyTorch, 77 tokens", "torch", "77", threads), ("PyTorch, cut to 8", "torch", "8", threads)]
    if case.startswith("fvg"):
        return [(f"PyTorch, {n} thread{'s' * (n > 1)}", "torch", "", n) for n in sorted({1, threads})]
    return [("Pillow", "pillow", "", threads)]


# ---- children: set up a step, then serve ----
def serve(step):
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        start = time.perf_counter()
        for _ in range(count):
            step()
        print((time.perf_counter() - start) * 1e3 / count, flush=True)


def openblas_step(case, _variant, threads):
    m, n, k = numbers(case)
    blas = ctypes.CDLL("libopenblas.so.0")
    blas.openblas_set_num_threads(threads)
    import random
    noise = [random.gauss(0, 1) for _ in range(4099)]

    def matrix(rows, cols):
        x = (ctypes.c_float * (rows * cols))()
        for first in range(0, rows * cols, len(noise)):
            part = min(len(noise), rows * cols - first)
            x[first:first + part] = noise[:part]
        return x

    x, w, y = matrix(m, k), matrix(n, k), matrix(m, n)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    row_major, plain, transposed = 101, 111, 112
    return lambda: blas.cblas_sgemm(row_major, plain, transposed, m, n, k, one, x, k, w, k, zero, y, n)


def pillow_step(case, _variant, _threads):
    from PIL import Image
    width, height = numbers(case)
    picture = Image.frombytes("RGB", (width, height), os.urandom(3 * width * height))
    short = min(width, height)
    size = (224 * width // short, 224 * height // short)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    bicubic = getattr(Image, "Resampling", Image).BICUBIC
    return lambda: picture.resize(size, bicubic).crop((left, top, left + 224, top + 224)).load()


def towers(torch):
    """The two towers of CLIP, written with plain operations."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x, mask):
            n, tokens, width = x.shape
            heads = width // HEAD
            qkv = self.qkv(self.ln_1(x)).view(n, tokens, 3, heads, HEAD).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.reshape(3, n * heads, tokens, HEAD).unbind(0)
            if hasattr(functional, "scaled_dot_product_attention"):
                seen = functional.scaled_dot_product_attention(q, k, v, mask)
            else:
                scores = torch.bmm(q * HEAD ** -0.5, k.transpose(1, 2))
                seen = torch.bmm(functional.softmax(scores if mask is None else scores + mask, -1), v)
            x = x + self.out(seen.view(n, heads, tokens, HEAD).transpose(1, 2).reshape(n, tokens, width))
            h = self.fc(self.ln_2(x))
            return x + self.proj(h * torch.sigmoid(1.702 * h))

    class Vision(nn.Module):
        def __init__(self, patch, width=IMAGE_WIDTH):
            super().__init__()
            self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
            self.first = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.position = nn.Parameter(torch.randn((IMAGE // patch) ** 2 + 1, width) * 0.02)
            self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
            self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
            self.projection = nn.Linear(width, EMBED, bias=False)

        def embed(self, images):
            x = self.patches(images).flatten(2).transpose(1, 2)
            return torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.position

        def forward(self, images):
            x = self.ln_pre(self.embed(images))
            for block in self.blocks:
                x = block(x, None)
            return self.projection(self.ln_post(x[:, 0]))

    class Text(nn.Module):
        def __init__(self, tokens, width=TEXT_WIDTH):
            super().__init__()
            self.embedding = nn.Embedding(VOCAB, width)
            self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
            self.register_buffer("mask", torch.full((tokens, tokens), float("-inf")).triu(1))
            self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
            self.ln_final = nn.LayerNorm(width)
            self.projection = nn.Linear(width, EMBED, bias=False)

        def encode(self, prompts, end):
            x = prompts + self.position
            for block in self.blocks:
                x = block(x, self.mask)
            return self.projection(self.ln_final(x)[torch.arange(end.shape[0]), end])

        def forward(self, ids):
            return self.encode(self.embedding(ids), ids.argmax(1))

    return Vision, Text


def encoder(torch, case, variant):
    """A tower and its input; 8 to 10 tokens a text, as our class names make them."""
    torch.manual_seed(1)
    vision, text = towers(torch)
    if case.startswith("image"):
        patch, count = numbers(case)[:2]
        return vision(patch).eval(), torch.randn(count, 3, IMAGE, IMAGE)
    count, tokens = numbers(case)[-1], int(variant)
    ids = torch.zeros(count, tokens, dtype=torch.long)
    for i in range(count):
        length = min(tokens, 8 + (i % 10 >= 7) + (i % 10 >= 9))
        ids[i, :length] = torch.randint(1, VOCAB - 2, (length,))
        ids[i, 0], ids[i, length - 1] = VOCAB - 2, VOCAB - 1
    return text(tokens).eval(), ids


class Learners:
    """Steps of the published prompt learners, on class names with room for the context behind [SOT]."""
    def __init__(self, torch, text, ids):
        self.torch, self.text, self.ids = torch, text.requires_grad_(False), ids
        with torch.no_grad():
            self.fixed, self.end = self.text.embedding(self.ids), self.ids.argmax(1)
        self.labels, self.f0, self.g0 = torch.tensor(LABELS), self.unit(BATCH), self.unit(len(self.ids))

    def unit(self, rows):
        return self.norm(self.torch.randn(rows, EMBED))

    def norm(self, x):
        return self.torch.nn.functional.normalize(x, dim=-1)

    def parameter(self, *shape):
        return self.torch.nn.Parameter(self.torch.randn(*shape) * 0.02)

    def pictures(self):
        vision = towers(self.torch)[0](16).eval().requires_grad_(False)
        return vision, self.torch.randn(BATCH, 3, IMAGE, IMAGE)

    def splice(self, x, at, rows, gone):
        """Rows in place of `gone` rows from `at` on."""
        return self.torch.cat([x[:, :at], rows.expand(len(x), -1, -1), x[:, at + gone:]], 1)

    def texts(self, ctx, deep=()):
        """Classes in the words ctx, with other vectors in their places before the blocks 1, 2, ..."""
        x = self.splice(self.fixed, 1, ctx, len(ctx)) + self.text.position
        for i, block in enumerate(self.text.blocks):
            if 0 < i <= len(deep):
                x = self.splice(x, 1, deep[i - 1], len(ctx))
            x = block(x, self.text.mask)
        return self.text.projection(self.text.ln_final(x)[self.torch.arange(len(x)), self.end])

    def images(self, vision, pixels, prompts):
        """Pictures with vectors behind them, new ones before each of the first blocks."""
        x = vision.embed(pixels)
        end, count = x.shape[1], len(prompts[0])
        x = vision.ln_pre(self.splice(x, end, prompts[0], 0))
        for i, block in enumerate(vision.blocks):
            if 0 < i < len(prompts):
                x = self.splice(x, end, prompts[i], count)
            x = block(x, None)
        return vision.projection(vision.ln_post(x[:, 0]))

    def trained(self, params, loss, adam=False):
        if adam:
            optimizer = self.torch.optim.AdamW(params, 0.001, weight_decay=0.01)
        else:
            optimizer = self.torch.optim.SGD(params, 0.0025, momentum=0.9, weight_decay=5e-4)

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()
        return step

    def coop(self):
        ctx = self.parameter(N_CTX, TEXT_WIDTH)
        return self.trained([ctx], lambda: self.cross_entropy(self.f0, self.norm(self.texts(ctx))))

    def cross_entropy(self, f, g):
        return self.torch.nn.functional.cross_entropy(100 * f @ g.t(), self.labels[:len(f)])

    def cocoop(self):
        nn = self.torch.nn
        hidden = EMBED // 16
        net = nn.Sequential(nn.Linear(EMBED, hidden), nn.ReLU(), nn.Linear(hidden, TEXT_WIDTH))
        ctx, f = self.parameter(N_CTX, TEXT_WIDTH), self.f0[:1]
        return self.trained([ctx, *net.parameters()],
                            lambda: self.cross_entropy(f, self.norm(self.texts(ctx + net(f)))))

    def promptsrc(self):
        vision, pixels = self.pictures()
        functional = self.torch.nn.functional
        words = [self.parameter(N_CTX, TEXT_WIDTH) for _ in range(DEPTH)]
        prompts = [self.parameter(N_CTX, IMAGE_WIDTH) for _ in range(DEPTH)]

        def loss():
            g = self.norm(self.texts(words[0], words[1:]))
            f = self.norm(self.images(vision, pixels, prompts))
            z, z0 = 100 * f @ g.t(), 100 * self.f0 @ self.g0.t()
            near = functional.kl_div(functional.log_softmax(z, 1), functional.log_softmax(z0, 1), reduction="sum",
                                     log_target=True) / z.numel()
            return functional.cross_entropy(z, self.labels) + 25 * functional.l1_loss(g, self.g0) \
                + 10 * functional.l1_loss(f, self.f0) + near
        return self.trained(words + prompts, loss)

    def maple(self):
        vision, pixels = self.pictures()
        words = [self.parameter(2, TEXT_WIDTH) for _ in range(DEPTH)]
        layers = self.torch.nn.ModuleList(self.torch.nn.Linear(TEXT_WIDTH, IMAGE_WIDTH) for _ in range(DEPTH))

        def loss():
            g = self.norm(self.texts(words[0], words[1:]))
            prompts = [layer(x) for layer, x in zip(layers, words)]
            return self.cross_entropy(self.norm(self.images(vision, pixels, prompts)), g)
        return self.trained(words + list(layers.parameters()), loss)

    def mmrl(self):
        torch, (vision, pixels) = self.torch, self.pictures()
        tokens = self.parameter(REP_TOKENS, REP_WIDTH)
        count = LAYERS - REP_FIRST
        to_text = torch.nn.ModuleList(torch.nn.Linear(REP_WIDTH, TEXT_WIDTH) for _ in range(count))
        to_image = torch.nn.ModuleList(torch.nn.Linear(REP_WIDTH, IMAGE_WIDTH) for _ in range(count))
        own = torch.nn.Linear(IMAGE_WIDTH, EMBED, bias=False)
        length = self.ids.shape[1] + REP_TOKENS
        mask = torch.full((length, length), float("-inf")).triu(1)

        def run(blocks, x, before, after, layers):
            for i, block in enumerate(blocks):
                if i >= REP_FIRST:
                    gone = REP_TOKENS if i > REP_FIRST else 0
                    x = self.splice(x, 1, layers[i - REP_FIRST](tokens), gone)
                x = block(x, before if i < REP_FIRST else after)
            return x

        def loss():
            x = run(self.text.blocks, self.fixed + self.text.position, self.text.mask, mask, to_text)
            last = self.text.ln_final(x)[torch.arange(len(x)), self.end + REP_TOKENS]
            g = self.norm(self.text.projection(last))
            x = vision.ln_post(run(vision.blocks, vision.ln_pre(vision.embed(pixels)), None, None, to_image))
            f, f_r = self.norm(vision.projection(x[:, 0])), self.norm(own(x[:, 1:1 + REP_TOKENS].mean(1)))
            far = (1 - (f * self.f0).sum(1)).mean() + (1 - (g * self.g0).sum(1)).mean()
            return 0.7 * self.cross_entropy(f, g) + 0.3 * self.cross_entropy(f_r, g) + far
        return self.trained([tokens, *to_text.parameters(), *to_image.parameters(), *own.parameters()], loss, True)


def torch_fvg(torch, case):
    nn, functional = torch.nn, torch.nn.functional
    tau, scale, n_class = 2.0, 100.0, numbers(case)[-1]

    def mlp(*widths):
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1])

    image, text, frg, brg = mlp(EMBED, 64, EMBED), mlp(EMBED, 64, EMBED), mlp(3, 32, 1), mlp(3, 32, 1)
    for adapter in (image, text):
        nn.init.normal_(adapter[2].weight, std=1e-3)
        nn.init.zeros_(adapter[2].bias)
    optimizer = torch.optim.SGD([p for m in (image, text, frg, brg) for p in m.parameters()], 0.0035,
                                momentum=0.9, weight_decay=5e-4)
    f, f_fg = (functional.normalize(torch.randn(BATCH, EMBED), dim=-1) for _ in range(2))
    g, g_clip = (functional.normalize(torch.randn(n_class, EMBED), dim=-1) for _ in range(2))
    labels, area = torch.tensor(LABELS), torch.tensor([0.3, 0.5, 0.2, 0.4])

    def entropy(p):
        return -torch.xlogy(p, p).sum(1)

    def kl(p, z):
        return (torch.xlogy(p, p) - p * functional.log_softmax(z / tau, 1)).sum(1)

    def step():
        with torch.no_grad():
            z_full, z_fg, z_clip = scale * f @ g.t(), scale * f_fg @ g.t(), scale * f @ g_clip.t()
            p_full, p_fg, p_clip = (functional.softmax(z / tau, 1) for z in (z_full, z_fg, z_clip))
            better = functional.cross_entropy(z_fg, labels, reduction="none") < \
                functional.cross_entropy(z_full, labels, reduction="none")
            counts = ((area >= 0.02) & (area <= 0.98)).float()
            h_full = entropy(p_full)
            u = torch.stack([h_full - entropy(p_fg), functional.cosine_similarity(p_full, p_fg), area], 1)
            v = torch.stack([h_full, entropy(p_clip), functional.cosine_similarity(p_full, p_clip)], 1)
        q = frg(u).squeeze(1)
        l_frg = functional.binary_cross_entropy_with_logits(q, better.float(), counts, reduction="sum") \
            / counts.sum().clamp(min=1)
        r = (torch.sigmoid(q) * counts).detach()
        z = scale * functional.normalize(f + image(f), dim=1) @ functional.normalize(g + text(g), dim=1).t()
        distilled = (r * kl(p_fg, z) + (1 - r) * kl(p_full, z)).mean()
        b = torch.sigmoid(brg(v))
        z_pc = (1 - b) * z_full + b * z_clip
        loss = functional.cross_entropy(z, labels) + l_frg + 10 * distilled \
            + functional.cross_entropy(z_pc, labels) + kl(p_clip, z_pc).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step


def torch_step(case, variant, threads):
    import torch
    torch.set_num_threads(threads)
    if case.startswith("fvg"):
        return torch_fvg(torch, case)
    if "_step_" in case:
        return getattr(Learners(torch, *encoder(torch, case, variant)), case.split("_")[0])()
    if case.startswith("gemm"):
        m, n, k = numbers(case)
        model, x = torch.nn.Linear(k, n, bias=False), torch.randn(m, k)
    else:
        model, x = encoder(torch, case, variant)
    if case.endswith("bf16"):
        model, x = model.bfloat16(), x.bfloat16()
    if case.endswith("q8"):
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)

    def step():
        with torch.no_grad():
            model(x)
    return step


def quantise(torch, model):
    """Puts, in place of each linear layer, what dynamic quantisation makes of it in ONNX."""
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(_, x, w, scale, _zero):
            return x @ (w.float() * scale)

        @staticmethod
        def symbolic(g, x, w, scale, zero):
            q, x_scale, x_zero = g.op("DynamicQuantizeLinear", x, outputs=3)
            sums = g.op("Cast", g.op("MatMulInteger", q, w, x_zero, zero), to_i=1)
            y = g.op("Mul", sums, g.op("Mul", x_scale, scale))
            sizes = x.type().sizes()
            y.setType(x.type().with_sizes([*sizes[:-1], w.type().sizes()[1]]) if sizes else x.type())
            return y

    class Layer(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            w = layer.weight.detach()
            scale = w.abs().max() / 127
            self.register_buffer("w", torch.round(w / scale).to(torch.int8).t().contiguous())
            self.register_buffer("scale", scale)
            self.register_buffer("zero", torch.tensor(0, dtype=torch.int8))
            self.bias = layer.bias

        def forward(self, x):
            y = Product.apply(x, self.w, self.scale, self.zero)
            return y if self.bias is None else y + self.bias

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Layer(child))
    return model.eval()


def export(case, variant, path):
    """The model as ONNX, and its input: a line with the shape, then the raw numbers."""
    import torch
    model, x = encoder(torch, case, variant)
    if case.endswith("q8"):
        model = quantise(torch, model)
    torch.onnx.export(model, x, path, opset_version=14, input_names=["x"], output_names=["y"])
    x.numpy().tofile(path + ".input")
    print(*x.shape)


ORT_DRIVER = """
const [folder, model, threads, ...shape] = process.argv.slice(2);
const ort = require(folder + '/node_modules/onnxruntime-node');
const raw = require('fs').readFileSync(model + '.input');
const bytes = raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length);
const x = shape.length == 2 ? new ort.Tensor('int64', new BigInt64Array(bytes), shape.map(Number))
                            : new ort.Tensor('float32', new Float32Array(bytes), shape.map(Number));
(async () => {
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ['cpu'], graphOptimizationLevel: 'all',
    intraOpNumThreads: Number(threads), interOpNumThreads: 1});
  console.log('ready');
  for await (const line of require('readline').createInterface({input: process.stdin})) {
    const count = Number(line), start = process.hrtime.bigint();
    for (let i = 0; i < count; i++) await session.run({x});
    console.log(Number(process.hrtime.bigint() - start) / 1e6 / count);
  }
})().catch(e => { console.error(String(e)); process.exit(1); });
"""


# ---- the parent: one process for each side, by turns ----
class Missing(Exception):
    pass


def environment(threads):
    env = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    env["OMP_NUM_THREADS"] = str(threads)
    env.setdefault("MALLOC_MMAP_THRESHOLD_", str(10 ** 9))      # PyTorch's tensors come back without page faults
    env.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 * 10 ** 9))
    if os.path.isdir(OPENBLAS):
        env["LD_LIBRARY_PATH"] = ":".join(p for p in (OPENBLAS, env.get("LD_LIBRARY_PATH")) if p)
    return env


class Side:
    """A process that serves steps."""
    def __init__(self, command, threads):
        self.errors = tempfile.TemporaryFile("w+")
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            stderr=self.errors, env=environment(threads))
        except OSError as e:
            raise Missing(f"{command[0]}: {e.strerror}") from e
        self.read("ready")
        self.step(1)
        self.count = max(1, int(TURN_MS / self.step(1)))

    def read(self, expected=None):
        line = self.process.stdout.readline().strip()
        if not line or (expected and line != expected):
            self.process.kill()
            self.process.wait()
            self.errors.seek(0)
            raise Missing((self.errors.read().strip().splitlines() or ["ended without a word"])[-1])
        return line

    def step(self, count):
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        except OSError:
            pass                                        # it has ended: read says why
        return float(self.read())

    def processor_time(self):
        """Seconds. Linux knows a process's clock by this number, which is what clock_getcpuclockid makes."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def turn(self, cpu):
        time.sleep(PAUSE)
        if not cpu:
            return self.step(self.count)
        start = self.processor_time()
        self.step(self.count)
        return (self.processor_time() - start) * 1e3 / self.count

    def close(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        self.process.wait()


def start_peer(options, folder, case, kind, variant, threads):
    child = [sys.executable, os.path.abspath(__file__), "--case", case, "--variant", variant,
             "--threads", str(threads)]
    if kind == "bench":
        return start_ours(options, variant)
    if kind != "ort":
        return Side(child + ["--child", kind], threads)
    if not options.ort:
        raise Missing("--ort FOLDER is not given")
    model = os.path.join(folder, f"{case}_{variant}.onnx")
    done = subprocess.run(child + ["--child", "export", "--model", model], capture_output=True, text=True,
                          env=environment(threads), check=False)
    if done.returncode:
        raise Missing("no model: " + (done.stderr.strip().splitlines() or ["export failed"])[-1])
    shape = done.stdout.strip().splitlines()[-1].split()
    driver = os.path.join(folder, "driver.js")
    with open(driver, "w", encoding="ascii") as f:
        f.write(ORT_DRIVER)
    return Side(["node", driver, os.path.abspath(options.ort), model, str(threads), *shape], threads)


def start_ours(options, case):
    return Side([os.path.join(options.build, "bench"), "--case", case, "--serve",
                 "--threads", str(options.threads)], options.threads)


def our_turn(ours, cpu):
    try:
        return ours.turn(cpu)
    except Missing as e:
        sys.exit(f"bench_peers: build/bench: {e}")


def compare(options, ours, case, peer):
    """(our ms, the peer's ms, ratio), medians over the turns"""
    _, kind, variant, threads = peer
    with tempfile.TemporaryDirectory() as folder:
        side = start_peer(options, folder, case, kind, variant, threads)
        try:
            pairs = [(our_turn(ours, options.cpu), side.turn(options.cpu)) for _ in range(options.rounds)]
        finally:
            side.close()
    return [statistics.median(x) for x in (*zip(*pairs), [b / a for a, b in pairs])]


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return re.search(r"model name\s*: (.*)", f.read()).group(1)
    except (OSError, AttributeError):
        return "unknown processor"


def load():
    return " ".join(f"{x:.2f}" for x in os.getloadavg())


def measure(options):
    print(f"{datetime.date.today()}, {processor()}, {options.threads} threads, {options.rounds} turns, "
          f"{'processor time, ' if options.cpu else ''}load {load()}\n")
    if os.getloadavg()[0] > 0.5 and not options.cpu:
        print("the machine is busy: take no ratio below for the truth\n")
    form = "| {:19} | {:>9} | {:22} | {:>9} | {:>6} |" if options.markdown else "{:19} {:>9}  {:22} {:>9} {:>6}"
    print(form.format("case", "ours, ms", "peer", "peer, ms", "ratio"))
    if options.markdown:
        print("|---|---:|---|---:|---:|")
    skipped = {}
    for case in options.case:
        try:
            ours = start_ours(options, case)
        except Missing as e:
            sys.exit(f"bench_peers: ours: {e}")
        for peer in peers_of(case, options.threads):
            try:
                a, b, ratio = compare(options, ours, case, peer)
                print(form.format(case, f"{a:.3f}", peer[0], f"{b:.3f}", f"{ratio:.2f}"), flush=True)
            except Missing as e:
                skipped.setdefault(f"{peer[0].split(',')[0]}: {e}", []).append(case)
        ours.close()
    for why, cases in skipped.items():
        print(f"\nskipped: {why} ({', '.join(dict.fromkeys(cases))})")
    print(f"\nload at the end {load()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", nargs="?", default="build", help="the folder of `bench`")
    parser.add_argument("--ort", help="the folder in which onnxruntime-node was installed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", type=cases, default=CASES)
    parser.add_argument("--cpu", action="store_true", help="compare processor time, for a busy machine (Linux)")
    parser.add_argument("--markdown", action="store_true")
    for private in ("--child", "--variant", "--model"):
        parser.add_argument(private, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "export":
        export(options.case[0], options.variant, options.model)
    elif options.child:
        step = {"openblas": openblas_step, "pillow": pillow_step, "torch": torch_step}[options.child]
        serve(step(options.case[0], options.variant, options.threads))
    else:
        measure(options)


if __name__ == "__main__":
    main()
