"""Steps of the four trainings in PyTorch, for comparison: written from a description of the original programs, with the
parameter names of their checkpoints, so that both sides start from the same weights and can compare their losses.

training_steps.py TASK CONFIG.json WEIGHTS.safetensors BASE.safetensors INPUTS.safetensors
prints `loss X`, of the inputs and without dropout; then, for each line it reads, takes one step and prints its seconds and
its processor's seconds.
"""

import json
import math
import os
import struct
import sys
import time

import torch
import torch.nn.functional as F

# As many as ours; its default is one for each physical core.
torch.set_num_threads(len(os.sched_getaffinity(0)))

TYPES = {"F32": torch.float32, "I64": torch.int64}


def read(path):
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            kind = TYPES[entry["dtype"]]
            flat = torch.frombuffer(data, dtype=kind, count=(end - start) // kind.itemsize, offset=start)
            tensors[name] = flat.reshape(entry["shape"]).clone()
    return tensors


class Task:
    """What all four have in common: parameters by name, layers on them, an optimizer."""

    dropout_in_training, clip = 0.0, None

    def __init__(self, config, weights, base, inputs):
        self.config, self.inputs, self.dropout = config, inputs, 0.0
        statistics = ("running_mean", "running_var")
        self.base = base | {name: value for name, value in weights.items() if name.endswith(statistics)}
        self.parameters = {
            name: torch.nn.Parameter(value) for name, value in weights.items() if not name.endswith(statistics)
        }
        self.optimizer = self.make_optimizer(self.parameters)

    def get(self, name):
        found = self.parameters.get(name)
        return self.base.get(name) if found is None else found

    def linear(self, x, name):
        return F.linear(x, self.get(name + ".weight"), self.get(name + ".bias"))

    def norm(self, x, name, eps):
        return F.layer_norm(x, x.shape[-1:], self.get(name + ".weight"), self.get(name + ".bias"), eps)

    def drop(self, x):
        return F.dropout(x, self.dropout) if self.dropout > 0 else x

    def step(self):
        self.dropout = self.dropout_in_training
        self.optimizer.zero_grad()
        self.loss().backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.clip)
        self.optimizer.step()


class Findings(Task):
    """BioViL-T's trunk and projector below two linear layers."""

    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters.values(), lr=5e-5, eps=1e-6, weight_decay=0.0)

    def conv(self, x, conv, norm, stride=1):
        weight = self.get(conv + ".weight")
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        parts = [self.get(f"{norm}.{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, training=True, momentum=0.1, eps=1e-5)

    def bottleneck(self, x, root, stride, has_downsample):
        rest = self.conv(x, f"{root}.downsample.0", f"{root}.downsample.1", stride) if has_downsample else x
        x = F.relu(self.conv(x, f"{root}.conv1", f"{root}.bn1"))
        x = F.relu(self.conv(x, f"{root}.conv2", f"{root}.bn2", stride))
        return F.relu(self.conv(x, f"{root}.conv3", f"{root}.bn3") + rest)

    def loss(self):
        root = "biovil_encoder.encoder"
        x = F.relu(self.conv(self.inputs["images"], f"{root}.encoder.conv1", f"{root}.encoder.bn1", 2))
        x = F.max_pool2d(x, 3, 2, 1)
        for layer, blocks in enumerate((3, 4, 6, 3), 1):
            for block in range(blocks):
                stride = 2 if layer > 1 and block == 0 else 1
                x = self.bottleneck(x, f"{root}.encoder.layer{layer}.{block}", stride, block == 0)
        own = F.conv2d(x, self.get(f"{root}.backbone_to_vit.weight"))
        x = torch.cat([own, self.get(f"{root}.missing_previous_emb").expand_as(own)], 1)
        model = "biovil_encoder.projector.model"
        x = F.relu(self.conv(x, f"{model}.0", f"{model}.1"))
        x = F.conv2d(x, self.get(f"{model}.3.weight"), self.get(f"{model}.3.bias"))
        x = F.avg_pool2d(x, self.config["pool"]).flatten(1)
        logits = self.linear(F.relu(self.linear(x, "fc1")), "fc2")
        return F.binary_cross_entropy_with_logits(logits, self.inputs["targets"], pos_weight=self.inputs["weights"])


class Bert(Task):
    dropout_in_training = 0.1

    def heads(self, x):
        return x.unflatten(-1, (self.config["num_attention_heads"], -1)).transpose(1, 2)

    def attention(self, x, name, context=None, mask=None, before=None):
        """Also gives keys and values, which texts that are written from images attend to."""
        context = x if context is None else context
        q, k, v = (
            self.heads(self.linear(of, f"{name}.self.{part}"))
            for part, of in (("query", x), ("key", context), ("value", context))
        )
        seen = (k, v)
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores + mask
        out = self.drop(scores.softmax(-1)) @ v
        out = self.drop(self.linear(out.transpose(1, 2).flatten(2), f"{name}.output.dense"))
        return self.norm(out + x, f"{name}.output.LayerNorm", self.config["layer_norm_eps"]), seen

    def feed_forward(self, x, layer, suffix=""):
        inner = F.gelu(self.linear(x, f"{layer}.intermediate{suffix}.dense"))
        out = self.drop(self.linear(inner, f"{layer}.output{suffix}.dense"))
        return self.norm(out + x, f"{layer}.output{suffix}.LayerNorm", self.config["layer_norm_eps"])


class Chexbert(Bert):
    clip = 1.0

    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters.values(), lr=2e-5, eps=1e-8, weight_decay=0.0)

    def loss(self):
        ids, root = self.inputs["ids"], "bert.embeddings"
        x = F.embedding(ids, self.get(f"{root}.word_embeddings.weight"))
        x = x + self.get(f"{root}.position_embeddings.weight")[: ids.shape[1]]
        x = x + self.get(f"{root}.token_type_embeddings.weight")[0]
        x = self.drop(self.norm(x, f"{root}.LayerNorm", self.config["layer_norm_eps"]))
        for index in range(self.config["num_hidden_layers"]):
            layer = f"bert.encoder.layer.{index}"
            x = self.feed_forward(self.attention(x, f"{layer}.attention")[0], layer)
        x = self.drop(x[:, 0])
        heads = (F.cross_entropy(self.linear(x, f"linear_heads.{i}"), self.inputs["classes"][i]) for i in range(14))
        return sum(heads)


class Alignment(Bert):
    """BLIP-2's first stage: ITC, ITM and LM."""

    def make_optimizer(self, parameters):
        groups = {True: [], False: []}
        for name, value in parameters.items():
            decays = value.dim() >= 2 and not any(part in name for part in ("bias", "ln", "bn"))
            groups[decays].append(value)
        groups = [{"params": groups[True], "weight_decay": 0.05}, {"params": groups[False], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)

    def layers(self):
        for index in range(self.config["num_hidden_layers"]):
            yield f"Qformer.bert.encoder.layer.{index}", index % self.config["cross_attention_freq"] == 0

    def embedded(self, ids=None, queries=0):
        parts = []
        root = "Qformer.bert.embeddings"
        if queries:
            parts.append(self.get("query_tokens").expand(queries, -1, -1))
        if ids is not None:
            words = F.embedding(ids, self.get(f"{root}.word_embeddings.weight"))
            parts.append(words + self.get(f"{root}.position_embeddings.weight")[: ids.shape[1]])
        x = self.norm(torch.cat(parts, 1), f"{root}.LayerNorm", self.config["layer_norm_eps"])
        return self.drop(x)

    def look(self, images):
        x, seen = self.embedded(queries=images.shape[0]), []
        for layer, crosses in self.layers():
            x, keys = self.attention(x, f"{layer}.attention")
            seen.append(keys)
            if crosses:
                x, _ = self.attention(x, f"{layer}.crossattention", images)
            x = self.feed_forward(x, layer, "_query")
        return x, seen

    def read_texts(self, ids, mask):
        x, mask = self.embedded(ids), (1 - mask)[:, None, None] * -10000.0
        for layer, _ in self.layers():
            x = self.feed_forward(self.attention(x, f"{layer}.attention", mask=mask)[0], layer)
        return x[:, 0]

    def match(self, images, ids, mask):
        count = self.config["num_query_token"]
        x = self.embedded(ids, images.shape[0])
        mask = torch.cat([torch.ones(len(ids), count), mask], 1)
        mask = (1 - mask)[:, None, None] * -10000.0
        for layer, crosses in self.layers():
            x, _ = self.attention(x, f"{layer}.attention", mask=mask)
            queries, texts = x[:, :count], x[:, count:]
            if crosses:
                queries, _ = self.attention(queries, f"{layer}.crossattention", images)
            x = torch.cat([self.feed_forward(queries, layer, "_query"), self.feed_forward(texts, layer)], 1)
        return self.linear(x[:, :count], "itm_head").mean(1)

    def write(self, seen, ids, mask):
        length, count = ids.shape[1], self.config["num_query_token"]
        mask = torch.tril(torch.ones(length, length)) * mask[:, None]
        mask = torch.cat([torch.ones(len(ids), length, count), mask], 2)
        mask = (1 - mask)[:, None] * -10000.0
        x = self.embedded(ids)
        for (layer, _), keys in zip(self.layers(), seen):
            x = self.feed_forward(self.attention(x, f"{layer}.attention", mask=mask, before=keys)[0], layer)
        head = "Qformer.cls.predictions"
        x = F.gelu(self.linear(x, f"{head}.transform.dense"))
        x = self.norm(x, f"{head}.transform.LayerNorm", self.config["layer_norm_eps"])
        words = self.get("Qformer.bert.embeddings.word_embeddings.weight")
        return F.linear(x, words, self.get(f"{head}.bias"))

    def loss(self):
        patches, ids, mask = (self.inputs[name] for name in ("patches", "ids", "mask"))
        batch = len(ids)
        images = self.norm(patches.flatten(1).reshape(batch, -1, patches.shape[1]), "ln_vision", 1e-5)
        tokens, seen = self.look(images)
        image_features = F.normalize(self.linear(tokens, "vision_proj"), dim=-1)
        text_features = F.normalize(self.linear(self.read_texts(ids, mask), "text_proj"), dim=-1)
        similarity = (image_features @ text_features.T).max(1).values / self.get("temp")
        own = torch.arange(batch)
        itc = sum(F.cross_entropy(s, own, label_smoothing=0.1) for s in (similarity, similarity.T)) / 2

        if self.dropout > 0:
            with torch.no_grad():
                weights = [(s.softmax(1) + 1e-4).fill_diagonal_(0) for s in (similarity.T, similarity)]
            other_images, other_texts = (torch.multinomial(w, 1).squeeze(1) for w in weights)
        else:
            other_images, other_texts = self.inputs["image_for_text"], self.inputs["text_for_image"]
        logits = self.match(
            torch.cat([images, images[other_images], images]),
            torch.cat([ids, ids, ids[other_texts]]),
            torch.cat([mask, mask, mask[other_texts]]),
        )
        itm = F.cross_entropy(logits, (torch.arange(3 * batch) < batch).long())

        started = torch.cat([torch.full_like(ids[:, :1], self.config["decoder_start"]), ids[:, 1:]], 1)
        logits = self.write(seen, started, mask)
        targets = ids.masked_fill(mask == 0, -100)
        lm = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), label_smoothing=0.1)
        return itc + itm + lm


class Language(Task):
    """LoRA on queries and values, and the image projection; the base is frozen."""

    dropout_in_training, clip = 0.05, 1.0

    def make_optimizer(self, parameters):
        return torch.optim.AdamW(parameters.values(), lr=3e-4, eps=1e-8, weight_decay=0.0)

    def root_norm(self, x, name):
        return self.get(name + ".weight") * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]))

    def adapted(self, x, name):
        root = f"base_model.model.{name}.lora"
        low = F.linear(F.linear(self.drop(x), self.get(root + "_A.weight")), self.get(root + "_B.weight"))
        return self.linear(x, name) + self.config["scale"] * low

    def loss(self):
        ids, config = self.inputs["ids"], self.config
        batch, length = ids.shape
        x = F.embedding(ids, self.get("model.embed_tokens.weight")).clone()
        tokens = self.inputs["images"].shape[1]
        image = self.linear(self.inputs["images"], "base_model.model.model.img_proj_layer")
        x = torch.cat([x[:, :1], image, x[:, 1 + tokens :]], 1)
        width = config["hidden_size"] // config["num_attention_heads"]
        frequencies = config["rope_theta"] ** (-torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(length), frequencies).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()

        def turn(x):
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        mask = torch.full((length, length), float("-inf")).triu(1)
        for index in range(config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            h, attention = self.root_norm(x, f"{layer}.input_layernorm"), f"{layer}.self_attn"
            q, k, v = (
                project(h, f"{attention}.{part}_proj").unflatten(-1, (-1, width)).transpose(1, 2)
                for part, project in (("q", self.adapted), ("k", self.linear), ("v", self.adapted))
            )
            scores = turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(width) + mask
            out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = x + self.linear(out, f"{attention}.o_proj")
            h, mlp = self.root_norm(x, f"{layer}.post_attention_layernorm"), f"{layer}.mlp"
            inner = F.silu(self.linear(h, f"{mlp}.gate_proj")) * self.linear(h, f"{mlp}.up_proj")
            x = x + self.linear(inner, f"{mlp}.down_proj")
        logits = self.linear(self.root_norm(x, "model.norm"), "lm_head")
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), self.inputs["labels"][:, 1:].flatten())


def main():
    torch.manual_seed(42)
    name, config, *files = sys.argv[1:]
    with open(config) as file:
        config = json.load(file)
    tasks = {"findings": Findings, "alignment": Alignment, "chexbert": Chexbert, "language": Language}
    task = tasks[name](config, *(read(path) for path in files))
    with torch.no_grad():
        print("loss", task.loss().item(), flush=True)
    for _ in sys.stdin:
        started, processor = time.perf_counter(), time.process_time()
        task.step()
        print(time.perf_counter() - started, time.process_time() - processor, flush=True)


main()
