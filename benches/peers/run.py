"""Compares Graftling with its peers on the same workloads, on one machine. Prints a markdown table of ratios.

They all run in turn, round after round, each in its own process, so that anything that slows the machine slows them all. A figure is the
median of the rounds; a round's figure is the best of five products or steps after three unmeasured ones (meganeura: three after one). A
ratio is Graftling ÷ peer, followed by the smallest and the largest ratio of a single round. Peers that are not installed are reported and
left out.
README.md in this directory explains the setup.

    python benches/peers/run.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf --python venv/bin/python
    python benches/peers/run.py --cuda --matmul 4096 --smollm2-shape 8x512 --gpt2-shape 8x1024 --only matmul smollm2 gpt2
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
JOBS = ["matmul", "smollm2", "smollm2-short", "gpt2"]
BOTTLENECK = 64
SMOLLM2_WIDTH, GPT2_WIDTH = 576, 768
GIB = 2**30


def shape(text):
    """BATCHxLENGTH"""
    batch, length = map(int, text.split("x"))
    return batch, length


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=JOBS, metavar="NAME", help=", ".join(JOBS))
    parser.add_argument("--graftling", type=pathlib.Path, default=ROOT / "target/release/graftling")
    parser.add_argument("--python", type=pathlib.Path, default=pathlib.Path(sys.executable), help="an interpreter with torch and adapters")
    parser.add_argument("--burn", type=pathlib.Path, default=built("burn"), help="the peer's binary")
    parser.add_argument("--meganeura", type=pathlib.Path, default=built("meganeura"), help="the peer's binary")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--gpt2", type=pathlib.Path, default=ROOT / "models/gpt2-124m-random", help="where the model is, or will be written")
    parser.add_argument("--cuda", action="store_true", help="run PyTorch on CUDA, in f32 and bf16, instead of the CPU")
    parser.add_argument("--matmul", type=int, default=1024, metavar="N", help="the size of the products")
    parser.add_argument("--smollm2-shape", type=shape, default=(1, 128), metavar="BATCHxLENGTH")
    parser.add_argument("--gpt2-shape", type=shape, default=(1, 128), metavar="BATCHxLENGTH")
    parser.add_argument("--short", type=int, default=32, metavar="LENGTH", help="the sequence length of the comparison with meganeura")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every result of every round")
    return parser.parse_args()


def built(crate):
    target = os.environ.get("CARGO_TARGET_DIR") or HERE / crate / "target"
    return pathlib.Path(target) / f"release/graftling-peer-{crate}{'.exe' if os.name == 'nt' else ''}"


def say(line):
    print(line, file=sys.stderr, flush=True)


def peers(args):
    """The installed peers by their names in the table: for PyTorch the options of its scripts, for the others a binary."""
    found = {}
    if not shutil.which(args.python):
        say(f"left out: PyTorch ({args.python} does not exist)")
    elif subprocess.run([args.python, "-c", "import torch, adapters"], check=False, capture_output=True).returncode != 0:
        say(f"left out: PyTorch ({args.python} cannot import torch and adapters)")
    elif args.cuda:
        for precision in ("f32", "bf16"):
            found[f"PyTorch CUDA {precision}"] = ["--device", "cuda", "--precision", precision]
    else:
        found["PyTorch CPU f32"] = ["--device", "cpu", "--precision", "f32"]
    for name in ("burn", "meganeura"):
        if getattr(args, name).exists():
            found[name] = [getattr(args, name)]
        else:
            say(f"left out: {name} ({getattr(args, name)} does not exist)")
    return found


def commands(args, found):
    """The commands by name, Graftling's first, for each job that has a peer."""
    torch = {name: options for name, options in found.items() if name.startswith("PyTorch")}

    def training(model, width, batch_and_length):
        batch, length = map(str, batch_and_length)
        adapter = f"double_seq_bn[reduction_factor={width // BOTTLENECK}]"
        sizes = ["--batch-size", batch, "--length", length]
        all_peers = {"Graftling": [args.graftling, "bench", "--json", "--quiet", "--only", "train", "--model", model]}
        all_peers["Graftling"] += ["--adapter", adapter, "--batch-size", batch, "--max-length", length]
        for name, options in torch.items():
            all_peers[name] = [args.python, HERE / "step.py", "--model", model, "--bottleneck", str(BOTTLENECK), *sizes, *options]
        return all_peers, sizes

    jobs = {}
    if "matmul" in args.only:
        jobs["matmul"] = {"Graftling": [args.graftling, "bench", "--json", "--quiet", "--only", "matmul", "--formats", "f32"]}
        jobs["matmul"]["Graftling"] += ["--size", str(args.matmul)]
        for name, options in torch.items():
            jobs["matmul"][name] = [args.python, HERE / "matmul.py", "--json", "--size", str(args.matmul), *options]
        if "burn" in found:
            jobs["matmul"]["burn"] = [*found["burn"], "matmul", "--size", str(args.matmul)]
    if "smollm2" in args.only:
        jobs["smollm2"], sizes = training(args.model, SMOLLM2_WIDTH, args.smollm2_shape)
        if "burn" in found:
            jobs["smollm2"]["burn"] = [*found["burn"], "step", "--bottleneck", str(BOTTLENECK), *sizes]
    if "smollm2-short" in args.only:
        graftling = training(args.model, SMOLLM2_WIDTH, (1, args.short))[0]["Graftling"]
        jobs["smollm2-short"] = {"Graftling": graftling}
        if "meganeura" in found:
            for name, what in (("meganeura", "adapters"), ("meganeura, all weights", "full")):
                sizes = ["--length", str(args.short), "--warm-up", "1", "--steps", "3"]
                jobs["smollm2-short"][name] = [*found["meganeura"], what, *sizes]
    if "gpt2" in args.only:
        jobs["gpt2"], _ = training(args.gpt2, GPT2_WIDTH, args.gpt2_shape)
    return {job: named for job, named in jobs.items() if len(named) > 1}


def run(command):
    """The JSON of a command's last line, with the peak resident memory of its process as "peak_bytes"; None if the command fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = process.stdout.read().strip().splitlines()
        resident = None
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if process.wait() == 0 and lines:
            # The peers report their own peak, which replaces this one: what a Python process uses while it exits is not part of training.
            return {"peak_bytes": resident} | json.loads(lines[-1])
        errors.seek(0)
        say(f"failed: {shlex.join(map(str, command))}\n{errors.read()[-1000:]}")
        return None


def measure(jobs, rounds, file):
    """The results by job and name, one per round, written to the file as they arrive. A command that fails is dropped and not run again."""
    results = {job: {name: [] for name in named} for job, named in jobs.items()}
    for index in range(rounds):
        for job, named in jobs.items():
            for name, command in named.items():
                if name not in results[job]:
                    continue
                say(f"round {index + 1} of {rounds}: {job}, {name}")
                result = run(command)
                if result is None:
                    del results[job][name]
                else:
                    results[job][name].append(result)
                if file:
                    file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def product(direction):
    return lambda result: next(p["gflops"] for p in result["matmul"] if p["direction"] == direction)


def speed(result):
    """Tokens per second in the best step: Graftling's tokens_per_second, the peers' best_tokens_per_second (besides their median)."""
    return result["train"][0]["tokens_per_second"] if "train" in result else result["best_tokens_per_second"]


def first_step(result):
    return (result["train"][0] if "train" in result else result)["first_step_seconds"]


def device_memory(result):
    """Graftling's device memory; for PyTorch that of its tensors on CUDA, or the peak resident memory of its process on a CPU."""
    return (result["train"][0]["gpu_bytes"] if "train" in result else result["peak_bytes"]) / GIB


def process_memory(result):
    return result["peak_bytes"] / GIB


def table(args, results):
    """The lines of the table. Rows that lack a figure on either side are left out."""
    lines = ["| | Graftling | peer | peer's figure | Graftling ÷ peer |", "|---|---|---|---|---|"]

    def row(label, job, name, figure):
        ours, theirs = (results.get(job, {}).get(who) for who in ("Graftling", name))
        if not ours or not theirs:
            return
        try:
            ours, theirs = [figure(r) for r in ours], [figure(r) for r in theirs]
        except (IndexError, KeyError, StopIteration, TypeError):
            say(f"no row: {label}, {name}")
            return
        ratios = sorted(a / b for a, b in zip(ours, theirs))
        ratio = statistics.median(ours) / statistics.median(theirs)
        spread = f" ({number(ratios[0])}–{number(ratios[-1])})" if len(ratios) > 1 else ""
        ours, theirs = number(statistics.median(ours)), number(statistics.median(theirs))
        lines.append(f"| {label} | {ours} | {name} | {theirs} | {number(ratio)}{spread} |")

    def rows(label, job, figure, only=""):
        for name in results.get(job, {}):
            if name != "Graftling" and name.startswith(only):
                row(label, job, name, figure)

    size = f"{args.matmul}³"
    for direction, formula in (("forward", "y = x·Wᵀ"), ("input gradient", "dx = dy·W"), ("weight gradient", "dW = dyᵀ·x")):
        rows(f"{formula}, {size}, f32, GFLOP/s", "matmul", product(direction))
    trainings = {
        "smollm2": f"SmolLM2-135M, {'×'.join(map(str, args.smollm2_shape))}",
        "smollm2-short": f"SmolLM2-135M, 1×{args.short}",
        "gpt2": f"GPT-2 124M, {'×'.join(map(str, args.gpt2_shape))}",
    }
    for job, label in trainings.items():
        rows(f"{label}, tokens/s", job, speed)
    for job, label in trainings.items():
        whose = "on the device" if args.cuda else "on the device, PyTorch's resident"
        rows(f"{label}, GiB {whose} (less is better)", job, device_memory, "PyTorch")
        if not args.cuda:
            rows(f"{label}, GiB resident, whole process (less is better)", job, process_memory, "PyTorch")
    for job, label in trainings.items():
        rows(f"{label}, s from process start to the end of the first step (less is better)", job, first_step)
    return lines


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cpu():
    """The processor's name, if the system reports it."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def heading(args, results):
    """When, where, with what and how this was measured."""
    named = {}
    for by_name in results.values():
        for name, rounds in by_name.items():
            for result in rounds:
                named.setdefault(name, (result.get("peer", ""), result.get("device") or "its default device"))
    yield f"{datetime.date.today().isoformat()}; {cpu()}, {os.cpu_count()} cores; {platform.system()} {platform.release()}"
    yield ""
    for name, (peer, device) in named.items():
        yield f"- {name}: {f'{peer}; ' if peer else ''}{device}"
    yield ""
    yield f"`python {shlex.join(sys.argv)}`: medians of {args.rounds} round{'s' if args.rounds > 1 else ''}."
    yield f"Training: Adam on `double_seq_bn` adapters with a bottleneck of {BOTTLENECK}, the base frozen. SmolLM2 is the Q4_1 file, which Graftling"
    yield "keeps quantised and PyTorch decodes to f32; the others have f32 weights of its shape. GPT-2 has random f32 weights."
    yield ""


def main():
    args = arguments()
    if not args.graftling.exists():
        sys.exit(f"{args.graftling} does not exist: run cargo build --release, or give --graftling PATH")
    if not args.model.exists() and {"smollm2", "smollm2-short"} & set(args.only):
        sys.exit(f"{args.model} does not exist: run scripts/fetch-smollm2, or give --model PATH")
    jobs = commands(args, peers(args))
    if "gpt2" in jobs and not (args.gpt2 / "model.safetensors").exists():
        say(f"writing {args.gpt2}")
        subprocess.run([args.python, HERE / "gpt2.py", args.gpt2], check=True)
    results = measure(jobs, args.rounds, args.json)
    print("\n".join([*heading(args, results), *table(args, results)]))


if __name__ == "__main__":
    main()
