#!/usr/bin/env python3
"""peers.py BUILD - the training steps that tools/bench_peers.py times in PyTorch against recordings of the published
trainers: the loss of the first step, and its gradient for every parameter.  Ours are compared with the same recordings
by golden.py, so both sides of the benchmark do the same work.  Needs torch (Debian: python3-torch); the recordings
lie in $FVGPT_SHARED or ../shared and are not part of the project."""
import json, os, subprocess, sys
sys.dont_write_bytecode = True
import safetensors_file

try:
    import torch
except ImportError:
    print("skipped: no PyTorch\n0 passed, 0 failed")
    sys.exit(0)

build = sys.argv[1]
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
shared = os.environ.get("FVGPT_SHARED", "../shared")
sys.path.insert(0, os.path.join(root, "tools"))
import bench_peers as peers

# The recordings' small CLIP in place of ViT-B/16; sizes that are not here are the same in both.
PATCH, TOKENS = 16, 20
peers.IMAGE, peers.IMAGE_WIDTH, peers.TEXT_WIDTH, peers.LAYERS = 48, 128, 128, 4
peers.DEPTH, peers.REP_WIDTH, peers.REP_FIRST = 3, 64, 1

VISION = {"patches.weight": "embeddings.patch_embedding.weight", "first": "embeddings.class_embedding",
          "position": "embeddings.position_embedding.weight", "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
TEXT = {"embedding.weight": "embeddings.token_embedding.weight", "position": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm"}
BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "out": "self_attn.out_proj", "fc": "mlp.fc1", "proj": "mlp.fc2"}
passed = failed = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("FAILED", what)


def load(path):
    """safetensors -> {name: tensor}, metadata"""
    tensors, meta = safetensors_file.read(path)
    kinds = {"F16": torch.float16, "F32": torch.float32, "I32": torch.int32}
    return {name: torch.frombuffer(bytearray(numbers), dtype=kinds[dtype]).reshape(shape)
            for name, (dtype, shape, numbers) in tensors.items()}, meta


def fill(tower, kind, projection, names, weights):
    """Puts a tower's weights, which have Hugging Face's names, into the peer's modules."""
    state = tower.state_dict()
    for own, value in state.items():
        head, _, leaf = own.rpartition(".")
        if own.startswith("blocks"):
            _, i, part = head.split(".")
            layer = f"{kind}.encoder.layers.{i}."
            if part == "qkv":
                found = torch.cat([weights[f"{layer}self_attn.{x}_proj.{leaf}"] for x in "qkv"])
            else:
                found = weights[f"{layer}{BLOCK[part]}.{leaf}"]
        elif own == "projection.weight":
            found = weights[projection + ".weight"]
        elif own == "mask":
            continue
        else:
            found = weights[f"{kind}.{names[own] if own in names else names[head] + '.' + leaf}"]
        value.copy_(found[:TOKENS] if own == "position" else found.reshape(value.shape))
    return tower.eval().requires_grad_(False)


def tokens(texts):
    lines = subprocess.run([os.path.join(build, "fvgpt"), "tokenize", "--model", f"{shared}/model/lit-vit-ti16"],
                           input="".join(x + "\n" for x in texts), stdout=subprocess.PIPE, text=True, check=True)
    ids = torch.zeros(len(texts), TOKENS, dtype=torch.long)
    for i, line in enumerate(lines.stdout.split("\n")[:-1]):
        row = [peers.VOCAB - 2, *map(int, line.split()), peers.VOCAB - 1]
        ids[i, :len(row)] = torch.tensor(row)
    return ids


class Recorded(peers.Learners):
    """The peer's learner on recorded weights and pictures; it keeps what would be trained, and the loss."""
    def __init__(self, method, weights):
        self.recording, meta = load(f"{shared}/golden/backbones/{method}.safetensors")
        vision, text = peers.towers(torch)
        names = [x.replace("_", " ") for x in json.loads(meta["classes"])]
        ids = tokens([meta.get("template", "a photo of a {}.").format(x) for x in names])
        super().__init__(torch, fill(text(TOKENS), "text_model", "text_projection", TEXT, weights), ids)
        self.vision = fill(vision(PATCH), "vision_model", "visual_projection", VISION, weights)
        with torch.no_grad():
            self.g0 = self.norm(self.recording.get("test_fixed_text_embeddings", self.text(ids)))

    def pictures(self):
        return self.vision, self.pixels

    def trained(self, params, loss, adam=False):
        self.params = params
        return loss

    def step(self, method, first, count):
        """The loss of so many of the first step's pictures, and the parameters' gradients, by their names."""
        chosen = slice(first, first + count)
        self.pixels, self.labels = (self.recording[x][0][chosen] for x in ("images", "labels"))
        self.labels = self.labels.long()
        with torch.no_grad():
            self.f0 = self.norm(self.vision(self.pixels))
        loss = getattr(self, method)()
        names = parameter_names(method)
        with torch.no_grad():
            for p, name in zip(self.params, names, strict=True):
                start = self.recording["init." + name]
                p.copy_(start.t() if name.endswith("proj_rep") else start)
        value = loss()
        value.backward()
        return value.item(), {name: p.grad.t() if name.endswith("proj_rep") else p.grad
                              for p, name in zip(self.params, names)}


def parameter_names(method):
    """What the recordings call the peer's parameters, in its order."""
    def layers(form, count):
        return [f"{form.format(i)}.{x}" for i in range(count) for x in ("weight", "bias")]

    deep = range(1, peers.DEPTH)
    blocks = peers.LAYERS - peers.REP_FIRST
    representation = "representation_learner.compound_rep_tokens"
    return {
        "cocoop": ["prompt_learner.ctx", *layers("prompt_learner.meta_net.linear1", 1),
                   *layers("prompt_learner.meta_net.linear2", 1)],
        "promptsrc": ["prompt_learner.ctx", *(f"text_encoder.transformer.resblocks.{i}.VPT_shallow" for i in deep),
                      "image_encoder.VPT", *(f"image_encoder.transformer.resblocks.{i}.VPT_shallow" for i in deep)],
        "maple": ["prompt_learner.ctx", *(f"prompt_learner.compound_prompts_text.{i - 1}" for i in deep),
                  *layers("prompt_learner.proj", 1),
                  *layers("prompt_learner.compound_prompt_projections.{}", peers.DEPTH - 1)],
        "mmrl": [representation, *layers(representation + "_r2tproj.{}", blocks),
                 *layers(representation + "_r2vproj.{}", blocks), "image_encoder.proj_rep"],
    }[method]


def compare(method, weights):
    learner = Recorded(method, weights)
    n = len(learner.recording["labels"][0])
    each = 1 if method == "cocoop" else n                  # the peer's CoCoOp takes one picture a step
    steps = [learner.step(method, first, each) for first in range(0, n, each)]

    loss = sum(x for x, _ in steps) / len(steps)
    wanted = learner.recording["losses"][0].item()
    check(abs(loss - wanted) <= 1e-4 * abs(wanted), f"{method}: the loss is {loss}, recorded is {wanted}")
    for name in steps[0][1]:
        grad = sum(x[name] for _, x in steps) / len(steps)
        wanted = learner.recording["grad0." + name]
        apart = ((grad - wanted).abs().max() / wanted.abs().max()).item()
        check(apart <= 2e-4, f"{method}: the gradient of {name} is off by {apart:.1e} of the largest")


if not os.path.isdir(f"{shared}/golden"):
    print("skipped: no golden numbers in", shared)
else:
    small = load(f"{shared}/golden/backbones/model.safetensors")[0]
    for method in ("cocoop", "promptsrc", "maple", "mmrl"):
        compare(method, small)
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
