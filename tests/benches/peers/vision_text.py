"""Image encoder, findings classifier, Q-Former and CheXbert at published geometry with random weights, in PyTorch or ONNX
Runtime: vision_text.py WORK BATCH LENGTH ENGINE SCRATCH. Runs once for each line of its input and answers with seconds.
WORK "gemm" is a product of two matrices of 2048 x 2048, in GFLOP/s."""

import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import torch

WORK, BATCH, LENGTH, ENGINE, SCRATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
THREADS = len(os.sched_getaffinity(0))
torch.set_num_threads(THREADS)
torch.manual_seed(0)


class Encoder(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        import torchvision

        trunk = torchvision.models.resnet50(weights=None)
        self.trunk = torch.nn.Sequential(*list(trunk.children())[:-2])
        self.reduce = torch.nn.Conv2d(2048, 256, 1, bias=False)
        self.missing = torch.nn.Parameter(torch.zeros(1, 256, 1, 1))
        self.project = torch.nn.Sequential(
            torch.nn.Conv2d(512, width, 1, bias=False), torch.nn.BatchNorm2d(width), torch.nn.ReLU(), torch.nn.Conv2d(width, width, 1)
        )

    def forward(self, image):
        x = self.reduce(self.trunk(image))
        missing = self.missing.expand(x.shape[0], -1, x.shape[2], x.shape[3])
        return self.project(torch.cat([x, missing], 1))


class Findings(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder(128)
        self.fc = torch.nn.Sequential(torch.nn.Linear(2048, 512), torch.nn.ReLU(), torch.nn.Linear(512, 14))

    def forward(self, image):
        return torch.sigmoid(self.fc(torch.nn.functional.avg_pool2d(self.encoder(image), 4).flatten(1)))


class QFormer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        self.model = Blip2QFormerModel(Blip2QFormerConfig(encoder_hidden_size=1408, cross_attention_frequency=2))
        self.queries = torch.nn.Parameter(torch.randn(1, 32, 768))

    def forward(self, states):
        queries = self.queries.expand(states.shape[0], -1, -1)
        return self.model(query_embeds=queries, encoder_hidden_states=states).last_hidden_state


class Chexbert(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(BertConfig(), add_pooling_layer=False)
        self.heads = torch.nn.Linear(768, 13 * 4 + 2)

    def forward(self, ids):
        return self.heads(self.bert(ids).last_hidden_state[:, 0])


def work():
    if WORK == "encoder":
        return Encoder(1408), torch.rand(BATCH, 3, LENGTH, LENGTH)
    if WORK == "findings":
        return Findings(), torch.rand(BATCH, 3, LENGTH, LENGTH)
    if WORK == "qformer":
        return QFormer(), torch.randn(BATCH, 196, 1408)
    return Chexbert(), torch.randint(1000, 30000, (BATCH, LENGTH))


def prepared():
    if WORK == "gemm":
        kind = torch.bfloat16 if ENGINE == "torch-bf16" else torch.float32
        a, b = torch.rand(2048, 2048).to(kind), torch.rand(2048, 2048).to(kind)
        return lambda: a @ b
    model, x = work()
    model = model.eval()
    if ENGINE.startswith("torch"):
        if ENGINE == "torch-bf16":
            model = model.to(torch.bfloat16)
            x = x.to(torch.bfloat16) if x.is_floating_point() else x
        if x.dim() == 4:
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        return lambda: model(x)
    import onnxruntime

    path = os.path.join(SCRATCH, f"{WORK}-{BATCH}-{LENGTH}.onnx")
    if not os.path.exists(path):
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(model, (x,), path + ".part", dynamo=True, external_data=False, verbose=False, **names)
        os.replace(path + ".part", path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with torch.inference_mode():
        run = prepared()
        run()
        run()
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            started = time.perf_counter()
            run()
            print(time.perf_counter() - started, file=answers, flush=True)


main()
