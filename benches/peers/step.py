"""A training step of an adapter in PyTorch, for benches/peers/run.py.

The base is frozen; `double_seq_bn` adapters of the `adapters` library train with Adam on arbitrary tokens. Prints lines of JSON: one after the
first optimizer step, with the seconds since the process started (including imports and loading the model), one per step, and last the result.

    python benches/peers/step.py --model MODEL [--device cuda] [--precision bf16] [--batch-size 1] [--length 128]
"""

import time

STARTED = time.perf_counter()

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import sys


def seconds_before_this_script():
    """Seconds from the start of the process to STARTED: within 10 ms on Linux, 0 elsewhere."""
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return age - (time.perf_counter() - STARTED)
    except (AttributeError, OSError):
        return 0.0


BEFORE = seconds_before_this_script()

import adapters
import torch
from transformers import AutoModelForCausalLM


def load(path):
    """Loads a directory in Hugging Face format, or a .gguf file, which transformers decodes to f32."""
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def add_adapter(model, bottleneck):
    """Adds adapters after attention and after the feed-forward layer of every block; nothing else trains."""
    adapters.init(model)
    config = adapters.DoubleSeqBnConfig(reduction_factor=model.config.hidden_size / bottleneck)
    model.add_adapter("peer", config=config)
    model.train_adapter("peer")
    widths = {p.shape[0] for name, p in model.named_parameters() if p.requires_grad and "adapter_down.0.weight" in name}
    assert widths == {bottleneck}, f"the adapters have widths {widths}"
    # GPT-2's own dropout would stay active in training; Graftling applies none in the base.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def peak_memory(device):
    """The peak device memory of tensors on CUDA, or the peak resident memory of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a directory in Hugging Face format or a .gguf file")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16 is autocast over f32 weights")
    parser.add_argument("--bottleneck", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--warm-up", type=int, default=3, help="unmeasured steps before the measured ones")
    parser.add_argument("--steps", type=int, default=5, help="measured steps")
    args = parser.parse_args()

    # f32 means f32: no TF32 in products.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = load(args.model)
    add_adapter(model, args.bottleneck)
    model.to(args.device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    count = args.batch_size * args.length
    tokens = torch.tensor([i * 2_654_435_761 % 2**32 % model.config.vocab_size for i in range(count)], device=args.device)
    tokens = tokens.view(args.batch_size, args.length)
    autocast = torch.autocast(args.device, torch.bfloat16) if args.precision == "bf16" else contextlib.nullcontext()

    def step():
        """Makes one optimizer step and waits until the device has finished; returns the loss and the seconds."""
        started = time.perf_counter()
        optimizer.zero_grad()
        with autocast:
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return loss.item(), time.perf_counter() - started

    times = []
    for index in range(args.warm_up + args.steps):
        loss, seconds = step()
        if index == 0:
            first = BEFORE + time.perf_counter() - STARTED
            print(json.dumps({"first_step_seconds": first}), flush=True)
        print(json.dumps({"step": index + 1, "seconds": seconds, "loss": loss}), flush=True)
        if index >= args.warm_up:
            times.append(seconds)

    result = {
        "peer": f"PyTorch {torch.__version__}, adapters {adapters.__version__}",
        "device": torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": args.precision,
        "trained": sum(p.numel() for p in trained),
        "attention": model.config._attn_implementation,
        "batch_size": args.batch_size,
        "length": args.length,
        "first_step_seconds": first,
        "tokens_per_second": count / statistics.median(times),
        "best_tokens_per_second": count / min(times),
        "peak_bytes": peak_memory(args.device),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
