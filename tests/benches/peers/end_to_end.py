"""The original's way from images to reports, in Python with PyTorch and transformers: end_to_end.py BUNDLE TEXTS. Answers
each line of its input, {"folder", "at_once", "tokens"}, with {"seconds", "tokens", "reports"}.

The language model computes in bf16 with its adapter merged, which is faster than the original's adapter beside the weights;
the findings classifier in bf16; image encoder and Q-Former in f32, as the original's. All images of a line are one batch."""

import json
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import numpy
import torch
import torch.nn.functional as F
import torchvision
import transformers
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer

torch.set_num_threads(len(os.sched_getaffinity(0)))
IMAGE = "<IMG>"


def weights(path, kind=torch.float32):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).to(kind) for name in file.keys()}


def below(tensors, prefix):
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def preprocessed(path):
    """Remapped to 8 bits, grey, the shorter side 512."""
    pixels = numpy.asarray(Image.open(path)).astype(float)
    pixels = pixels - pixels.min()
    image = Image.fromarray((pixels / pixels.max() * 255).astype(numpy.uint8)).convert("L")
    short, long = sorted(image.size)
    other = int(512 * long / short)
    width, height = (512, other) if image.width <= image.height else (other, 512)
    return image.resize((width, height), Image.BILINEAR)


def cropped(image, side):
    top, left = (round((size - side) / 2) for size in (image.height, image.width))
    pixels = numpy.asarray(image)[top : top + side, left : left + side]
    return torch.from_numpy(pixels.copy()).float().div(255).expand(3, -1, -1)


class Encoder(torch.nn.Module):
    def __init__(self, width, tensors, kind):
        super().__init__()
        self.trunk = torchvision.models.resnet50(weights=None)
        self.reduce = torch.nn.Conv2d(2048, 256, 1, bias=False)
        self.project = torch.nn.Sequential(
            torch.nn.Conv2d(512, width, 1, bias=False), torch.nn.BatchNorm2d(width), torch.nn.ReLU(), torch.nn.Conv2d(width, width, 1)
        )
        self.trunk.load_state_dict(below(tensors, "encoder.encoder."), strict=False)
        self.trunk.avgpool = self.trunk.fc = torch.nn.Identity()
        self.reduce.load_state_dict(below(tensors, "encoder.backbone_to_vit."))
        self.project.load_state_dict(below(tensors, "projector.model."), strict=False)
        self.missing = torch.nn.Parameter(tensors["encoder.missing_previous_emb"])
        self.eval().to(kind).to(memory_format=torch.channels_last)

    def forward(self, images):
        trunk = self.trunk
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images.to(memory_format=torch.channels_last)))))
        x = self.reduce(trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x)))))
        missing = self.missing.expand(x.shape[0], -1, x.shape[2], x.shape[3])
        return self.project(torch.cat([x, missing], 1))


class Findings:
    def __init__(self, tensors):
        self.encoder = Encoder(128, below(tensors, "biovil_encoder."), torch.bfloat16)
        self.tensors = {name: value.bfloat16() for name, value in tensors.items() if name.startswith("fc")}

    def linear(self, x, name):
        return F.linear(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"])

    def __call__(self, images):
        x = F.avg_pool2d(self.encoder(images.bfloat16()), 4).flatten(1)
        return torch.sigmoid(self.linear(F.relu(self.linear(x, "fc1")), "fc2").float()) > 0.5


class QFormer:
    def __init__(self, tensors):
        self.tensors = tensors

    def linear(self, x, name):
        return F.linear(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"])

    def norm(self, x, name, eps=1e-12):
        return F.layer_norm(x, x.shape[-1:], self.tensors[name + ".weight"], self.tensors[name + ".bias"], eps)

    def attention(self, x, name, context):
        heads = (
            self.linear(of, f"{name}.self.{part}").unflatten(-1, (12, -1)).transpose(1, 2)
            for part, of in (("query", x), ("key", context), ("value", context))
        )
        out = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self.norm(self.linear(out, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def __call__(self, patches):
        images = patches.flatten(1).reshape(len(patches), -1, patches.shape[1])
        images = self.norm(images, "ln_vision", 1e-5)
        x = self.norm(self.tensors["query_tokens"], "Qformer.bert.embeddings.LayerNorm").expand(len(patches), -1, -1)
        for index in range(12):
            layer = f"Qformer.bert.encoder.layer.{index}"
            x = self.attention(x, f"{layer}.attention", x)
            if index % 2 == 0:
                x = self.attention(x, f"{layer}.crossattention", images)
            inner = F.gelu(self.linear(x, f"{layer}.intermediate_query.dense"))
            x = self.norm(self.linear(inner, f"{layer}.output_query.dense") + x, f"{layer}.output_query.LayerNorm")
        return x


class Language:
    def __init__(self, folder, config):
        llama, lora = config["llama"], config["lora"]
        fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "rms_norm_eps")
        settings = transformers.LlamaConfig(**{name: llama[name] for name in fields}, rope_theta=llama["rope_theta"])
        with torch.device("meta"):
            self.model = transformers.LlamaForCausalLM(settings).to(torch.bfloat16)
        adapter = weights(os.path.join(folder, "adapter.safetensors"))
        tensors = weights(os.path.join(folder, "language.safetensors"), torch.bfloat16)
        for name in tensors:
            root = "base_model.model." + name.removesuffix("weight") + "lora_"
            if root + "A.weight" in adapter:
                change = adapter[root + "B.weight"] @ adapter[root + "A.weight"] * (lora["lora_alpha"] / lora["r"])
                tensors[name] = (tensors[name].float() + change).bfloat16()
        self.model.load_state_dict(tensors, assign=True)
        # What is no weight has no values yet.
        kind = type(self.model.model.rotary_emb)
        self.model.model.rotary_emb = kind(settings)
        self.model.eval()
        root = "base_model.model.model.img_proj_layer."
        self.projection = [adapter[root + part].bfloat16() for part in ("weight", "bias")]
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "language.tokenizer.json"))

    def ids(self, text):
        return torch.tensor(self.tokenizer.encode(text.strip(), add_special_tokens=False).ids)

    def write(self, prompts, images, tokens):
        images, rows = F.linear(images.bfloat16(), *self.projection), []
        embed = self.model.model.embed_tokens
        for prompt, image in zip(prompts, images):
            before, after = prompt.split(IMAGE * prompt.count(IMAGE))
            begin = torch.cat([torch.tensor([1]), self.ids(before)])
            rows.append(torch.cat([embed(begin), image, embed(self.ids(after))]))
        longest = max(map(len, rows))
        mask = torch.stack([torch.cat([torch.zeros(longest - len(row)), torch.ones(len(row))]) for row in rows]).long()
        rows = torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        limits = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "use_cache": True}
        out = self.model.generate(inputs_embeds=rows, attention_mask=mask, pad_token_id=0, eos_token_id=2, **limits)
        return [row.tolist() for row in out]


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder, texts = sys.argv[1], json.loads(sys.argv[2])
    with open(os.path.join(folder, "bundle.json")) as file:
        components = json.load(file)["components"]
    embedding = weights(os.path.join(folder, "embedding.safetensors"))
    encoder = Encoder(1408, below(embedding, "visual_encoder."), torch.float32)
    qformer = QFormer(embedding)
    classifier = Findings(below(weights(os.path.join(folder, "findings.safetensors")), "model."))
    language = Language(folder, components["language"]["config"])

    def findings_text(row):
        present = [name for name, is_present in zip(texts["findings"], row) if is_present]
        others = [name for name in present if name not in ("No Finding", "Support Devices")]
        if others:
            present = [name for name in present if name != "No Finding"]
        return ", ".join(present).lower() if present else texts["no_findings"]

    def answer(asked):
        started = time.perf_counter()
        images = [preprocessed(os.path.join(asked["folder"], name)) for name in sorted(os.listdir(asked["folder"]))]
        tokens = qformer(encoder(torch.stack([cropped(image, 448) for image in images])))
        findings = classifier(torch.stack([cropped(image, 488) for image in images]))
        prompts = [texts["prompt"].replace("{findings}", findings_text(row)) for row in findings.tolist()]
        rows = language.write(prompts, tokens, asked["tokens"])
        reports = [language.tokenizer.decode(row) for row in rows]
        return {"seconds": time.perf_counter() - started, "tokens": [len(row) for row in rows], "reports": reports}

    with torch.inference_mode():
        image = torch.rand(1, 3, 448, 448)
        language.write([texts["prompt"]], qformer(encoder(image)), 2)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


main()
