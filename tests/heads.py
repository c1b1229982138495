#!/usr/bin/env python3
"""heads.py BUILD [--shots K] [--crops V]: the heads of fvgpt.h, chapters 15 to 21, on the features of real photographs,
against NumPy and PyTorch in double precision.

The model and the two sets of photographs lie in $FVGPT_SHARED or ../shared, which is not part of the project; without
them, or without NumPy and PyTorch, this says so and ends well.  Logits must agree to 1e-4 of the largest.  Each head is
computed again from the same features: GDA, Tip-Adapter with what val chooses, LP++ and the probe of the default c from
nothing; CLIP-Adapter and Tip-Adapter-F, which are trained in random batches, from their trained weights (test_heads
trains them again).  The table shows accuracies and seconds as build/heads prints them."""
import json, os, struct, subprocess, sys, tempfile

build = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
shared = os.environ.get("FVGPT_SHARED", "../shared")
model = os.path.join(shared, "model", "lit-vit-ti16")
if not os.path.isdir(model): sys.exit(print("skipped: no photographs in", shared) or 0)
try:
    import numpy as np
    import torch
except ImportError:
    sys.exit(print("skipped: needs NumPy and PyTorch") or 0)
torch.set_num_threads(2)
passed = failed = 0


def check(what, right, found=""):
    global passed, failed
    passed, failed = passed + bool(right), failed + (not right)
    if not right: print("FAILED", what, found)


def load(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    kind = {"F32": np.float32, "I32": np.int32}
    return {name: np.frombuffer(data, kind[t["dtype"]], -1 if not t["shape"] else int(np.prod(t["shape"])),
                                8 + n + t["data_offsets"][0]).reshape(t["shape"]).astype(float if t["dtype"] == "F32" else int)
            for name, t in header.items() if name != "__metadata__"}


def verdict(z, y):
    """Right answers, and minus the cross-entropy: the greater pair is the better candidate."""
    top = z.max(1, keepdims=True)
    loss = (top[:, 0] + np.log(np.exp(z - top).sum(1)) - z[np.arange(len(y)), y]).sum()
    return int((z.argmax(1) == y).sum()), -loss


def best(candidates, scores, y):
    return max(((verdict(scores(c), y), -i) for i, c in enumerate(candidates)))[1]


def compare(name, found, expected):
    off = np.abs(found - expected).max() / np.abs(expected).max()
    check(name, off < 1e-4, f"differs by {off:.2g} of the largest")
    print(f"    {name:<24} {off:.1e}")


def gda(x, crops, y, n_class):
    d = crops.shape[1]
    mu = np.stack([crops[y == c].mean(0) for c in range(n_class)])
    cov = np.mean([np.cov(crops[y == c].T) for c in range(n_class)], 0)
    p = np.linalg.pinv(cov, rcond=d * 2.0 ** -23, hermitian=True)
    scores = lambda f, t, p, mu, alpha: (x["scale"][0] * f @ t.T + alpha *
                                         (f @ p @ mu.T - np.log(len(mu)) - np.einsum("nd,de,ne->n", mu, p, mu) / 2))
    alphas = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]
    alpha = alphas[-best(alphas, lambda a: scores(x["val"], x["text"], p, mu, a), x["val.label"])]
    compare("GDA", x["base.GDA"], scores(x["base"], x["text"], p, mu, alpha))

    k = min(64, len(crops))
    p_new, mu_new = np.zeros((d, d)), []
    for t in x["text.new"]:
        near = crops[np.argsort(-(crops @ t), kind="stable")[:k]]
        mu_new.append((near.sum(0) + 16 * t) / (k + 16))
        cov = (near - t).T @ (near - t) / (k - 1)
        p_new += d * np.linalg.inv((k - 1) * cov + np.trace(cov) * np.eye(d)) / len(x["text.new"])
    compare("GDA, new classes", x["new.GDA"], scores(x["new"], x["text.new"], p_new, np.array(mu_new), alpha))


def tip(x, folder, views, n_class):
    one_hot = np.eye(n_class)[x["label"]]
    scores = lambda f, keys, alpha, beta: x["scale"][0] * f @ x["text"].T + alpha * np.exp(-beta * (1 - f @ keys.T)) @ one_hot
    candidates = [(0.1 + 4.9 * j / 20, 0.1 + 11.9 * i / 200) for i in range(200) for j in range(20)]
    mean = views.mean(1)
    for name, keys in (("Tip-Adapter", mean / np.linalg.norm(mean, axis=1, keepdims=True)),
                       ("Tip-Adapter-F", load(folder + ".Tip-Adapter-F")["keys"])):
        chosen = candidates[-best(candidates, lambda c: scores(x["val"], keys, *c), x["val.label"])]
        compare(name, x["base." + name], scores(x["base"], keys, *chosen))


def adapter(x, folder):
    w = load(folder + ".CLIP-Adapter")
    a = w["values"][0]
    f = a * np.maximum(np.maximum(x["base"] @ w["down"].T, 0) @ w["up"].T, 0) + (1 - a) * x["base"]
    compare("CLIP-Adapter", x["base.CLIP-Adapter"], x["scale"][0] * (f / np.linalg.norm(f, axis=1, keepdims=True)) @ x["text"].T)


def probe(x, crops, y, n_class):
    f, label = torch.tensor(crops), torch.tensor(y)
    w = torch.zeros(n_class, f.shape[1], dtype=torch.double, requires_grad=True)
    b = torch.zeros(n_class, dtype=torch.double, requires_grad=True)
    o = torch.optim.LBFGS([w, b], max_iter=5000, max_eval=10000, tolerance_grad=1e-11, tolerance_change=0,
                          history_size=30, line_search_fn="strong_wolfe")

    def loss():
        o.zero_grad()
        l = torch.nn.functional.cross_entropy(f @ w.T + b, label) + (w ** 2).sum() / (2 * len(f) * 31.6)
        l.backward()
        return l

    o.step(loss)
    compare("LinearProbe, c 31.6", x["base.LinearProbe.default"], x["base"] @ w.detach().numpy().T + (b - b.mean()).detach().numpy())


def lp(x, views, crops, y, n_class):
    f, label, t = torch.tensor(crops), torch.tensor(y), torch.tensor(x["text"])
    w = torch.tensor(np.stack([views[x["label"] == c].mean(1).sum(0) for c in range(n_class)]), requires_grad=True)
    b = torch.zeros(n_class, dtype=torch.double, requires_grad=True)
    own = f @ t.T
    start = 250 * torch.stack([own[label == c, c].mean() for c in range(n_class)]).mean()
    alpha = torch.full((n_class,), float(start), dtype=torch.double, requires_grad=True)
    rate = 4 * len(f) / float(torch.linalg.eigvalsh(f.T @ f).max())
    rate_alpha = len(f) / (4 * float((own ** 2).sum(0).max()))
    o = torch.optim.SGD([w, b], lr=rate, momentum=0.9)
    scores = lambda g: g @ (w + alpha[:, None] * t).T + b
    most, kept, val, base = (-1, 0), None, torch.tensor(x["val"]), torch.tensor(x["base"])
    for epoch in range(1, 301):
        o.zero_grad()
        alpha.grad = None
        torch.nn.functional.cross_entropy(scores(f), label).backward()
        o.step()
        if epoch % 10 == 0: alpha.data -= rate_alpha * alpha.grad
        v = verdict(scores(val).detach().numpy(), x["val.label"])
        if v > most: most, kept = v, scores(base).detach().numpy()
    compare("LP++", x["base.LP++"], kept)


for name in ("oxford_pets", "caltech-101"):
    with tempfile.TemporaryDirectory() as work:
        out = os.path.join(work, "features")
        print(name)
        done = subprocess.run([os.path.join(build, "heads"), model, os.path.join(shared, "data", name), "--out", out] + sys.argv[2:],
                              stdout=subprocess.PIPE, universal_newlines=True)
        print(done.stdout, end="")
        check(name, done.returncode == 0, "build/heads failed")
        if done.returncode: continue
        x = load(out)
        n_class, n = len(x["text"]), len(x["label"])
        views = x["crops"].reshape(n, -1, x["crops"].shape[1])
        y = np.repeat(x["label"], views.shape[1])
        print("  off by, of the largest logit")
        gda(x, x["crops"], y, n_class)
        tip(x, out, views, n_class)
        adapter(x, out)
        probe(x, x["crops"], y, n_class)
        lp(x, views, x["crops"], y, n_class)

print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
