"""Graftling and its peers on the same work, on one machine: a markdown table of ratios on standard output.

All of them run in turn, round after round, each in a process of its own, so that what slows the machine slows all. A figure is the median of the
rounds; a round's figure is the best of five products or steps after three that do not count (meganeura: three after one). A ratio is Graftling ÷
peer, with the least and the greatest ratio of a single round behind it. Peers that are not installed are named and left out. README.md here has the
setup.

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
    parser.add_argument("--python", type=pathlib.Path, default=pathlib.Path(sys.executable), help="one with torch and adapters")
    parser.add_argument("--burn", type=pathlib.Path, default=built("burn"), help="the peer's binary")
    parser.add_argument("--meganeura", type=pathlib.Path, default=built("meganeura"), help="the peer's binary")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--gpt2", type=pathlib.Path, default=ROOT / "models/gpt2-124m-random", help="where it is, or is made")
    parser.add_argument("--cuda", action="store_true", help="PyTorch on CUDA, in f32 and bf16, in place of the CPU")
    parser.add_argument("--matmul", type=int, default=1024, metavar="N", help="the size of the products")
    parser.add_argument("--smollm2-shape", type=shape, default=(1, 128), metavar="BATCHxLENGTH")
    parser.add_argument("--gpt2-shape", type=shape, default=(1, 128), metavar="BATCHxLENGTH")
    parser.add_argument("--short", type=int, default=32, metavar="LENGTH", help="of the one sequence beside meganeura")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="every result of every round")
    return parser.parse_args()


def built(crate):
    target = os.environ.get("CARGO_TARGET_DIR") or HERE / crate / "target"
    return pathlib.Path(target) / f"release/graftling-peer-{crate}{'.exe' if os.name == 'nt' else ''}"


def say(line):
    print(line, file=sys.stderr, flush=True)


def peers(args):
    """The peers that are here, named as the table names them: for PyTorch the options of its scripts, for the others a binary."""
    found = {}
    if not shutil.which(args.python):
        say(f"left out: PyTorch, as there is no {args.python}")
    elif subprocess.run([args.python, "-c", "import torch, adapters"], check=False, capture_output=True).returncode != 0:
        say(f"left out: PyTorch, as {args.python} has no torch and adapters")
    elif args.cuda:
        for precision in ("f32", "bf16"):
            found[f"PyTorch CUDA {precision}"] = ["--device", "cuda", "--precision", precision]
    else:
        found["PyTorch CPU f32"] = ["--device", "cpu", "--precision", "f32"]
    for name in ("burn", "meganeura"):
        if getattr(args, name).exists():
            found[name] = [getattr(args, name)]
        else:
            say(f"left out: {name}, as there is no {getattr(args, name)}")
    return found


def commands(args, found):
    """For each job that has a peer the commands by name, Graftling's first."""
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
    """The JSON of a command's last line, with the most memory that its process had resident in "peak_bytes"; or None, if it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = process.stdout.read().strip().splitlines()
        resident = None
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if process.wait() == 0 and lines:
            # The peers tell it themselves: what the end of a Python process takes is none of training's.
            return {"peak_bytes": resident} | json.loads(lines[-1])
        errors.seek(0)
        say(f"failed: {shlex.join(map(str, command))}\n{errors.read()[-1000:]}")
        return None


def measure(jobs, rounds, file):
    """The results by job and name, one a round, which go to the file as they come. What fails once is not run again, and left out."""
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
    """Tokens a second in the best step: what `graftling bench` calls so, and what the peers have beside the median."""
    return result["train"][0]["tokens_per_second"] if "train" in result else result["best_tokens_per_second"]


def first_step(result):
    return (result["train"][0] if "train" in result else result)["first_step_seconds"]


def device_memory(result):
    """Graftling's device memory; of PyTorch that of its tensors on CUDA, or the most that its process had resident on a CPU."""
    return (result["train"][0]["gpu_bytes"] if "train" in result else result["peak_bytes"]) / GIB


def process_memory(result):
    return result["peak_bytes"] / GIB


def table(args, results):
    """The lines of the table. Rows without a figure on either side are not there."""
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
        whose = "of the device; PyTorch's on it" if args.cuda else "of the device; PyTorch's resident"
        rows(f"{label}, GiB {whose} (less is better)", job, device_memory, "PyTorch")
        if not args.cuda:
            rows(f"{label}, GiB resident, whole process (less is better)", job, process_memory, "PyTorch")
    for job, label in trainings.items():
        rows(f"{label}, s from process start to the end of the first step (less is better)", job, first_step)
    return lines


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cpu():
    """The processor's name, where the system has one to give."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def heading(args, results):
    """Where, with what, when and how this was measured."""
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
        sys.exit(f"there is no {args.graftling}: cargo build --release, or --graftling PATH")
    if not args.model.exists() and {"smollm2", "smollm2-short"} & set(args.only):
        sys.exit(f"there is no {args.model}: scripts/fetch-smollm2, or --model PATH")
    jobs = commands(args, peers(args))
    if "gpt2" in jobs and not (args.gpt2 / "model.safetensors").exists():
        say(f"making {args.gpt2}")
        subprocess.run([args.python, HERE / "gpt2.py", args.gpt2], check=True)
    results = measure(jobs, args.rounds, args.json)
    print("\n".join([*heading(args, results), *table(args, results)]))


if __name__ == "__main__":
    main()
