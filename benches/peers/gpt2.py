"""Writes a model of GPT-2's shape (124M) with random weights, for timing: python benches/peers/gpt2.py DIRECTORY

The directory has config.json, model.safetensors (f32, from a fixed seed) and tokenizer.json. The tokenizer is that of the demo's base, whose 256
tokens are bytes: benchmarks use arbitrary token ids, so it need not cover the whole vocabulary. Needs numpy.
"""

import json
import pathlib
import shutil
import sys

import numpy

VOCAB, LAYERS, WIDTH, HEADS, POSITIONS = 50257, 12, 768, 12, 1024
TOKENIZER = pathlib.Path(__file__).parents[2] / "assets/base/tokenizer.json"


def tensors():
    """Names and shapes; matrices are [inputs, outputs], as GPT-2 stores them."""
    yield "wte.weight", (VOCAB, WIDTH)
    yield "wpe.weight", (POSITIONS, WIDTH)
    for layer in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            yield f"h.{layer}.{norm}.weight", (WIDTH,)
            yield f"h.{layer}.{norm}.bias", (WIDTH,)
        for name, inputs, outputs in [
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ]:
            yield f"h.{layer}.{name}.weight", (inputs, outputs)
            yield f"h.{layer}.{name}.bias", (outputs,)
    yield "ln_f.weight", (WIDTH,)
    yield "ln_f.bias", (WIDTH,)


def write_weights(path):
    """A safetensors file: the length of a JSON header, the header, the data. Biases are 0, the norms' scales 1, matrices N(0, 0.02)."""
    header, offset = {}, 0
    for name, shape in tensors():
        end = offset + 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors():
            if len(shape) == 2:
                values = random.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
            else:
                values = numpy.full(shape, name.endswith(".weight"), dtype=numpy.float32)
            file.write(values.astype("<f4").tobytes())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_positions": POSITIONS,
        "n_ctx": POSITIONS,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": VOCAB - 1,
        "eos_token_id": VOCAB - 1,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copy(TOKENIZER, directory / "tokenizer.json")
    # Written last, then renamed, so that a directory with weights is complete.
    write_weights(directory / "model.safetensors.part")
    (directory / "model.safetensors.part").rename(directory / "model.safetensors")


if __name__ == "__main__":
    main()
