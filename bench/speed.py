#!/usr/bin/env python3
"""Time squint, llama.cpp and transformers on the same work, in one run, with the same threads.

Prints a Markdown table: milliseconds (median) and squint's ratio to the faster peer. Each program
runs alone. MODEL is what make_model.py wrote; squint converts it for llama.cpp.
"""
import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import peers

QUESTION = "What do you see?"


def squint_stages(args, model, stages, compute):
    out = subprocess.run(
        [args.squint, "bench", "-m", model, "--json", "--stages", ",".join(stages), "--repeat",
         str(args.repeat), "--threads", str(args.threads), "--compute", compute],
        check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    print(f"# squint {model.name} {compute}: {report['backend']}", file=sys.stderr)
    return {s["name"]: s["median_ms"] for s in report["stages"]}


def squint_answer(args, model, method, keep):
    command = [args.squint, "bench", "-m", model, "--json", "--image", args.image, "-p", QUESTION,
               "--methods", method, "--repeat", str(args.repeat), "--threads", str(args.threads)]
    if keep:
        command += ["--keep", str(keep)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [s["median_ms"] for s in json.loads(out)["stages"] if s["name"].endswith("total")][0]


def convert(args, model, kind):
    """The GGUF pair of `kind`, made once beside the model."""
    folder = model.parent / f"{model.name}-{kind}"
    if not folder.exists():
        folder.mkdir()
        subprocess.run([args.squint, "convert", "-m", model, "-o", folder, "--name", "model",
                        "--type", kind], check=True)
    return folder


def pair(folder):
    vision = next(folder.glob("mmproj*.gguf"))
    text = [p for p in folder.glob("*.gguf") if p != vision][0]
    return text, vision


def prompt_ids(args):
    """vicuna_v1 ids around the picture, from squint's own tokenizer (checked elsewhere)."""
    lines = f"{peers.SYSTEM} USER: \n\n"
    run = subprocess.run([args.squint, "tokenize", "-m", args.demo], input=lines, text=True,
                         check=True, capture_output=True).stdout.splitlines()
    after = subprocess.run([args.squint, "tokenize", "-m", args.demo], text=True, check=True,
                           input=f"{QUESTION} ASSISTANT:\n", capture_output=True).stdout.split()
    return [1] + [int(i) for i in run[0].split()] + [-200] + [int(i) for i in after]


def llamacpp_table(args, kinds):
    out = {}
    if importlib.util.find_spec("llama_cpp") is None:
        print("# llama.cpp: not installed here", file=sys.stderr)
        return out
    for kind in kinds:
        text, vision = pair(convert(args, args.model, kind))
        peer = peers.LlamaCpp(text, vision, args.threads)
        out[f"vision {kind}"] = statistics.median(peer.time_vision(args.image, args.repeat))
        for rows in (84, 199, 631):
            out[f"prefill:{rows} {kind}"] = statistics.median(peer.time_prefill(rows, args.repeat))
        out[f"decode:631 {kind}"] = statistics.median(peer.time_decode(631, args.repeat * 3))
    peer = peers.LlamaCpp(*pair(args.demo), args.threads)
    out["answer 576"] = statistics.median(
        peers.timed(lambda: peer.ask(args.image, QUESTION), args.repeat))
    return out


def transformers_table(args):
    peer = peers.Transformers(args.model, args.threads, n_vision_layers=23)
    out = {"vision": statistics.median(peer.time_vision(args.repeat))}
    for rows in (84, 199, 631):
        out[f"prefill:{rows}"] = statistics.median(peer.time_prefill(rows, args.repeat))
    out["decode:631"] = statistics.median(peer.time_decode(631, args.repeat))
    if args.demo_hf:
        ids = prompt_ids(args)
        for keep in (None, 29):
            peer = peers.Transformers(args.demo_hf, args.threads)
            times, _ = peer.time_answer(args.image, ids, args.repeat, keep)
            out[f"answer {keep or 576}"] = statistics.median(times)
    return out


def in_process(function, *args):
    """Runs in a process of its own, so that one program's threads never wait beside another's."""
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def rows_of(ours, cpp, hf):
    """label, squint, llama.cpp, transformers; None where there is no such run."""
    yield "vision, one view", ours["auto"]["vision"], cpp.get("vision f16"), hf["vision"]
    for rows in (84, 199, 631):
        key = f"prefill:{rows}"
        yield f"prefill {rows}", ours["auto"][key], cpp.get(f"{key} q8_0"), hf[key]
    for kind in ("q8_0", "f16", "bf16"):
        yield (f"decode at 631, {kind}", ours[kind]["decode:631"], cpp.get(f"decode:631 {kind}"),
               hf["decode:631"] if kind == "bf16" else None)
    for keep in (576, 29):
        yield (f"demo, picture to answer, {keep} kept", ours["demo"][keep],
               cpp.get(f"answer {keep}"), hf.get(f"answer {keep}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", default="build/squint")
    parser.add_argument("--model", type=Path, required=True, help="made by make_model.py")
    parser.add_argument("--demo", type=Path, default=Path("models/demo"))
    parser.add_argument("--demo-hf", type=Path, help="the demo model in Hugging Face layout")
    parser.add_argument("--image", type=Path, default=Path("samples/frogs.jpg"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()

    stages = ["vision", "prefill:84", "prefill:199", "prefill:631"]
    ours = {"auto": squint_stages(args, args.model, stages, "auto"),
            "f32": squint_stages(args, args.model, stages, "f32")}
    for kind in ("q8_0", "f16", "bf16"):
        ours[kind] = squint_stages(args, convert(args, args.model, kind), ["decode:631"], "auto")
    ours["demo"] = {576: squint_answer(args, args.demo, "none", None),
                    29: squint_answer(args, args.demo, "fastervlm", 29)}
    cpp = in_process(llamacpp_table, args, ("q8_0", "f16", "bf16"))
    hf = in_process(transformers_table, args)

    print("| work | squint | llama.cpp | transformers bf16 | squint / faster peer |")
    print("|---|---|---|---|---|")
    for label, mine, *theirs in rows_of(ours, cpp, hf):
        cells = [f"{t:.1f}" if t else "-" for t in theirs]
        best = min((t for t in theirs if t), default=None)
        ratio = f"{mine / best:.2f}" if best else "-"
        print(f"| {label} | {mine:.1f} | {cells[0]} | {cells[1]} | {ratio} |")
    print("\nsquint in f32: " + ", ".join(f"{k} {v:.1f}" for k, v in ours["f32"].items()))
    print("llama.cpp: " + ", ".join(f"{k} {v:.1f}" for k, v in cpp.items()))


if __name__ == "__main__":
    main()
