#!/usr/bin/env python3
"""pytorch.py BUILD - files that PyTorch writes, read by fvg_weights_open_any and by the programs in BUILD.  The
numbers must come out bit for bit.  Needs torch (Debian: python3-torch) and a C compiler."""
import os, shutil, subprocess, sys, tempfile, warnings
sys.dont_write_bytecode = True
import safetensors_file

os.environ["FVGPT_CACHE"] = "none"                         # what is tested is computed

try:
    import torch
except ImportError:
    print("skipped: no PyTorch\n0 passed, 0 failed")
    sys.exit(0)

build = sys.argv[1]
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
passed = failed = 0

# Prints the tensors that cannot be read and the metadata asked for; the others go into a safetensors file.
reader = r"""
#define FVGPT_IMPLEMENTATION
#include "fvgpt.h"
int main(int n, char **argv) {
  static fvg_named_tensor out[10000];
  fvg_source source;
  fvg_weights *w;
  fvg_ctx *c;
  int i, k = 0;
  if (fvg_init(&c, NULL)) return 2;
  if (fvg_source_file(c, &source, argv[1]) || fvg_weights_open_any(c, &w, &source)) return puts(fvg_error(c)), 1;
  for (i = 0; i < fvg_weights_count(w) && k < 10000; i++) {
    fvg_tensor x;
    const char *name = fvg_weights_name(w, i);
    if (fvg_weights_info(w, &x, name) == 2) { printf("unreadable %s\n", name); continue; }
    if (fvg_weights_get(w, &x, name, x.type)) return puts(fvg_error(c)), 1;
    out[k].name = name;
    out[k++].tensor = x;
  }
  for (i = 3; i < n; i++) printf("%s=%s\n", argv[i], fvg_weights_metadata(w, argv[i]));
  if (fvg_safetensors_save(c, argv[2], out, k, NULL, 0)) return puts(fvg_error(c)), 1;
  while (k--) fvg_tensor_free(c, &out[k].tensor);
  fvg_weights_close(w);
  i = fvg_mem_used(c) != 0;
  fvg_free(c);
  return i;
}
"""


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("FAILED", what)


def safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    return safetensors_file.read(path)[0]


kinds = {torch.float32: ("F32", torch.int32), torch.float16: ("F16", torch.int16),
         torch.bfloat16: ("BF16", torch.int16), torch.int64: ("I64", torch.int64), torch.int32: ("I32", torch.int32),
         torch.uint8: ("U8", torch.uint8)}


def plain(tensor):
    name, bits = kinds[tensor.dtype]
    flat = tensor.detach().contiguous().reshape(-1)
    return name, list(tensor.shape), flat.view(bits).numpy().tobytes() if flat.numel() else b""


def read(path, *keys):
    return subprocess.run([program, path, out, *keys], stdout=subprocess.PIPE, universal_newlines=True)


def compare(path, tensors, lines=(), order=list):
    """tensors: what must be there by name; lines: what must be printed besides"""
    file = os.path.basename(path)
    done = read(path, *[x.split("=")[0] for x in lines if "=" in x])
    said = done.stdout.split("\n")[:-1]
    check(done.returncode == 0 and said == list(lines), f"{file}: {done.returncode} {said}")
    got = safetensors(out) if done.returncode == 0 else {}
    check(order(got) == order(tensors), f"{file}: names {list(got)}")
    wrong = [x for x in tensors if got.get(x) != plain(tensors[x])]
    check(not wrong, f"{file}: {wrong}")


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(5, 3)
        self.rest = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.ReLU(), torch.nn.BatchNorm2d(4))
        self.scale = torch.nn.Parameter(torch.tensor(2.5))
        self.register_buffer("turned", torch.randn(4, 6).half().t())
        self.sizes = [1, 2, 3]
        self.words = "some words"

    def forward(self, x):
        y = self.first(x) * self.scale + torch.tensor([1.5, 2.5, 3.5])
        for i in self.sizes:
            if i > 1:
                y = y + 1
        return y


def state(module):
    return {k: v for k, v in module.state_dict().items()}


def checkpoint(folder):
    """as Dassl's trainers save them: the scheduler keeps its successor, and with it an optimiser, as live objects"""
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    for name, successor in (("cosine", torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50.0)),
                            ("multi_step", torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]))):
        scheduler = dict(successor.state_dict(), successor=successor)
        content = {"state_dict": model.state_dict(), "epoch": 50, "optimizer": optimizer.state_dict(),
                   "scheduler": scheduler, "val_result": 84.68, "name": "caf\u00e9", "nothing": None, "yes": True,
                   "small": -1e-7, "many": -2 ** 40}
        for protocol in (2, 4):
            path = os.path.join(folder, f"model-{name}-{protocol}.pth.tar-50")
            torch.save(content, path, pickle_protocol=protocol)
            compare(path, state(model), ["epoch=50", "val_result=84.68", "name=caf\u00e9", "nothing=(null)", "yes=1",
                                         "small=-1e-07", "many=-1099511627776"])
    path = os.path.join(folder, "parallel.pth")
    parallel = torch.nn.DataParallel(model).state_dict()
    torch.save({"state_dict": parallel, "val_result": torch.ones(1).numpy().mean()}, path)
    compare(path, state(model), ["val_result=(null)"])
    path = os.path.join(folder, "pytorch_model.bin")
    torch.save(model.state_dict(), path)
    compare(path, state(model))


def nested(folder):
    base = torch.randn(6, 8)
    picture = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    content = {
        "list": [base, (base.t(), base[1:4, 2::3]), {7: base[2], "deep": {"er": [torch.nn.Parameter(base.t())]}}],
        "half": base.half().t(), "bfloat": base.bfloat16()[::2], "picture": picture,
        "permuted": picture.permute(3, 0, 2, 1), "scalar": base[3, 4], "empty": torch.zeros(0, 4),
        "expanded": torch.tensor([3.0]).expand(5, 7),
        "long": torch.arange(-5, 5), "int": torch.arange(6, dtype=torch.int32).view(2, 3).t(),
        "byte": torch.arange(250, 256, dtype=torch.uint8), "large": torch.randn(300, 500).t(), "size": base.shape,
        "double": base.double(), "short": base.short(), "bool": base > 0}
    want = {"list.0": base, "list.1.0": base.t(), "list.1.1": base[1:4, 2::3], "list.2.7": base[2],
            "list.2.deep.er.0": base.t()}
    foreign = ("double", "short", "bool")
    want.update({k: v for k, v in content.items() if k not in foreign and isinstance(v, torch.Tensor)})
    for protocol in (2, 3, 4):
        path = os.path.join(folder, f"nested-{protocol}.pt")
        torch.save(content, path, pickle_protocol=protocol)
        compare(path, want, [f"unreadable {x}" for x in foreign])
    path = os.path.join(folder, "tensor.pt")
    torch.save(base.t(), path)
    compare(path, {"tensor": base.t()})
    many = {f"block.{i}.weight": torch.full((i % 3, 2), float(i)) for i in range(3000)}
    path = os.path.join(folder, "many.pt")
    torch.save(many, path)
    compare(path, many)


def scripts(folder):
    model = Small().eval()
    both = {"script.pt": torch.jit.script(model), "trace.pt": torch.jit.trace(model, torch.ones(2, 5))}
    for name, module in both.items():
        torch.jit.save(module, os.path.join(folder, name))
        compare(os.path.join(folder, name), state(model), order=sorted)


class Harmful:
    def __reduce__(self):
        return os.system, ("echo FAILED something was executed",)


def refused(folder):
    path = os.path.join(folder, "refused.pt")
    for content, words, options in (
            ({"a": torch.ones(2)}, "before PyTorch 1.6", {"_use_new_zipfile_serialization": False}),
            ({"a": Harmful()}, f"{path}: the pickle asks for {os.system.__module__}.system;", {}),
            ({"a": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor", {}),
            (Small(), "the pickle asks for __main__.Small;", {})):
        torch.save(content, path, **options)
        done = read(path)
        check(done.returncode == 1 and words in done.stdout, f"refused: {words}: {done.stdout}")


def models(folder):
    """the model of examples/tiny-clip, in PyTorch's files: the same features to the last bit"""
    given = os.path.join(root, "examples", "tiny-clip")
    kind = {"F32": torch.float32, "F16": torch.float16}
    weights = {}
    for name, (dtype, shape, data) in safetensors(os.path.join(given, "model.safetensors")).items():
        weights[name] = torch.frombuffer(bytearray(data), dtype=kind[dtype]).reshape(shape)
    module = torch.nn.Module()
    scalars = {"input_resolution": 32, "context_length": 16, "vocab_size": 99}           # as in OpenAI's files
    for name, value in list(weights.items()) + [(x, torch.tensor(scalars[x])) for x in scalars]:
        at, *path = module, *name.split(".")
        for part in path[:-1]:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        at.register_buffer(path[-1], value)
    for name in ("given", "bin", "script"):
        os.mkdir(os.path.join(folder, name))
        for file in ("config.json", "merges.txt"):
            shutil.copy(os.path.join(given, file), os.path.join(folder, name))
    shutil.copy(os.path.join(given, "model.safetensors"), os.path.join(folder, "given"))
    torch.save(weights, os.path.join(folder, "bin", "pytorch_model.bin"))
    torch.jit.save(torch.jit.script(module), os.path.join(folder, "script", "clip.pt"))
    results = []
    to = os.path.join(folder, "features.safetensors")
    for model in ("given", "bin", "script/clip.pt"):
        fvgpt, path = os.path.join(build, "fvgpt"), os.path.join(folder, model)
        done = subprocess.run([fvgpt, "info", "--model", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        features = subprocess.run([fvgpt, "encode", "--model", path, "--text", "red circle", "--out", to],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(done.returncode == 0 and features.returncode == 0, f"{model}: {done.stdout} {features.stdout}")
        about = done.stdout.decode().replace(path, "")
        results.append((about, safetensors(to) if features.returncode == 0 else model))
    check(results[0] == results[1], f"pytorch_model.bin is the model: {results[0][0]} {results[1][0]}")
    check(results[0] == results[2], f"clip.pt is the model: {results[0][0]} {results[2][0]}")


torch.manual_seed(1)
warnings.simplefilter("ignore")
with tempfile.TemporaryDirectory() as folder:
    program, out = os.path.join(folder, "reader"), os.path.join(folder, "out.safetensors")
    with open(program + ".c", "w") as f:
        f.write(reader)
    subprocess.run([os.environ.get("CC", "cc"), "-O1", "-Wall", "-Werror", "-I", root, program + ".c", "-o", program, "-lm"], check=True)
    checkpoint(folder)
    nested(folder)
    scripts(folder)
    refused(folder)
    models(folder)
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
