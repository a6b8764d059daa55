"""The language model at the geometry of Vicuna-7B in bf16 with random weights, by transformers: transformers_decode.py LAYERS.
Prints a line `WORK TOKENS SECONDS PROCESSOR` for each pass, as `benches/quantised.rs` does. Sequences are decoded behind the keys
and values of a prompt that is read once; no tokens are chosen."""

import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import torch
import transformers

LAYERS = int(sys.argv[1])
VOCABULARY, PREFIX, PROMPT, STEPS = 32000, 160, 128, 8
torch.set_num_threads(len(os.sched_getaffinity(0)))
torch.manual_seed(0)


def loaded():
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=4096, intermediate_size=11008, num_hidden_layers=LAYERS, num_attention_heads=32,
        max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    # What is no weight has no values yet.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    drawn = torch.randn(1 << 20)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1)
                continue
            block = (drawn / parameter.shape[1] ** 0.5).bfloat16()
            for part in parameter.data.view(-1).split(len(block)):
                part.copy_(block[: len(part)])
    return config, model.eval()


def main(config, model):
    def ids(batch, count):
        return torch.tensor([[5 + at * 37 % 900 for at in range(count)]]).expand(batch, -1)

    def run(batch, count, cache):
        started, before = time.perf_counter(), time.process_time()
        model(ids(batch, count), cache=cache, use_cache=True, logits_to_keep=1)
        return f"{time.perf_counter() - started} {time.process_time() - before}"

    def empty():
        return transformers.DynamicCache(config=config)

    print(f"# transformers {transformers.__version__}, torch {torch.__version__}")
    run(1, PROMPT, empty())
    for _ in range(3):
        print(f"prefill-{PROMPT} {PROMPT} {run(1, PROMPT, empty())}", flush=True)
    for batch in (1, 4, 8):
        cache = empty()
        run(1, PREFIX, cache)
        cache.batch_repeat_interleave(batch)
        for step in range(STEPS + 1):
            seconds = run(batch, 1, cache)
            if step > 0:
                print(f"decode-{batch} {batch} {seconds}", flush=True)


config_and_model = loaded()
with torch.inference_mode():
    main(*config_and_model)
