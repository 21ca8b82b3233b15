#!/usr/bin/env python3
"""Time squint and transformers on one GPU: LLaVA-1.5-7B's shapes with random weights.

transformers' model is built from its configuration on the device, in bf16 with sdpa attention; no
checkpoint is needed. Its times are between two CUDA events around a call, squint's are on the
host's clock around a wait for the device. Medians; compilation and warm-up are not counted.

vision:N       N views of 336 px through the 23 layers whose output LLaVA uses (transformers would
               run 24; that is a row of its own). squint's time includes the upload of 8-bit pixels.
vision+rows:1  and the attention that FasterVLM reads; transformers: eager, which stores it all
prefill:N      N embedded rows, KV cache kept, to the last row's most likely id
decode:N       one id behind N rows, to the next id; eager: growing cache, compiled: static cache
decode:NxB     the same for B sequences as one batch
first-token:K  a 640 x 480 picture in memory, K tokens kept by FasterVLM, 55 tokens of text, to the
               first id of the answer; transformers resizes with PIL
"""
import argparse
import csv
import signal
import statistics
import subprocess
import sys
import time

FULL = dict(
    vision=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768),
    text=dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
              num_attention_heads=32, num_key_value_heads=32, vocab_size=32064,
              max_position_embeddings=4096, rms_norm_eps=1e-5),
    views=(1, 5, 32), prefill=(631, 199, 84, 2935), compiled=(84, 199, 631), decode=631, batch=8,
    keep=29)
TINY = dict(
    vision=dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                image_size=56, patch_size=14, projection_dim=32),
    text=dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=4, vocab_size=320, max_position_embeddings=128),
    views=(1, 2), prefill=(24, 8, 40), compiled=(8,), decode=24, batch=3, keep=4)
TEXT_BEFORE, TEXT_AFTER = 35, 20


class Peer:
    """The model's parts, and the clock."""

    def __init__(self, shape, device, repeat):
        import torch
        from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig,
                                  LlavaForConditionalGeneration)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.bfloat16)
        torch.manual_seed(1)
        self.torch, self.device, self.repeat = torch, device, repeat
        config = LlavaConfig(vision_config=CLIPVisionConfig(**shape["vision"]),
                             text_config=LlamaConfig(**shape["text"]),
                             image_token_index=shape["text"]["vocab_size"] - 1)
        config._attn_implementation = "sdpa"
        with torch.device(device):
            llava = LlavaForConditionalGeneration(config).eval()
        self.side = shape["vision"]["image_size"]
        self.tower, self.text = llava.model.vision_tower, llava.model.language_model
        self.projector, self.head = llava.model.multi_modal_projector, llava.lm_head
        encoder = getattr(self.tower, "vision_model", self.tower).encoder
        self.encoder, self.all_layers = encoder, encoder.layers
        self.used_layers = encoder.layers[:-1]

    def random(self, *size):
        return self.torch.randn(*size, device=self.device)

    def measure(self, run, reset=lambda: None, warm=3):
        """Median of run's milliseconds; reset comes before each and is not counted."""
        torch, cuda, times = self.torch, self.device == "cuda", []
        for i in range(warm + self.repeat):
            reset()
            if cuda:
                torch.cuda.synchronize()
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                end.record()
                end.synchronize()
                ms = start.elapsed_time(end)
            else:
                begin = time.perf_counter()
                run()
                ms = 1e3 * (time.perf_counter() - begin)
            if i >= warm:
                times.append(ms)
        return statistics.median(times)

    def compile(self, function, mode):
        if mode is None:
            return function
        compiled = self.torch.compile(function, mode=mode, dynamic=False, fullgraph=False)

        def run(*args):
            self.torch.compiler.cudagraph_mark_step_begin()
            return compiled(*args)
        return run

    def vision(self, views, mode=None, as_llava=False):
        """as_llava: as transformers' LLaVA calls it, all layers and every hidden state kept."""
        pixels = self.random(views, 3, self.side, self.side)
        self.encoder.layers = self.all_layers if as_llava else self.used_layers
        run = self.compile(
            lambda x: self.tower(pixel_values=x, output_hidden_states=as_llava).last_hidden_state,
            mode)
        try:
            return self.measure(lambda: run(pixels))
        finally:
            self.encoder.layers = self.used_layers

    def with_attention(self, pixels):
        """Features and, as FasterVLM scores patches, CLS's attention in their layer."""
        out = self.tower(pixel_values=pixels, output_attentions=True)
        return out.last_hidden_state[:, 1:], out.attentions[-1][:, :, 0, 1:].float().mean(1)

    def eager_tower(self, run):
        """Fused attention stores no scores."""
        self.tower.set_attn_implementation("eager")
        try:
            return self.measure(run)
        finally:
            self.tower.set_attn_implementation("sdpa")

    def vision_rows(self, views):
        pixels = self.random(views, 3, self.side, self.side)
        return self.eager_tower(lambda: self.with_attention(pixels))

    def first_token(self, keep):
        import numpy
        import transformers
        torch, side = self.torch, self.side
        processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        picture = numpy.random.default_rng(1).integers(0, 256, (480, 640, 3), numpy.uint8)
        embed = self.text.get_input_embeddings()
        before, after = (torch.ones(1, n, dtype=torch.long, device=self.device)
                         for n in (TEXT_BEFORE, TEXT_AFTER))

        def run():
            pixels = processor(picture, return_tensors="pt")["pixel_values"]
            features, score = self.with_attention(pixels.to(self.device, torch.bfloat16))
            kept = features[:, score.topk(keep, 1)[1].sort(1)[0][0]]
            x = torch.cat([embed(before), self.projector(kept), embed(after)], 1)
            out = self.text(inputs_embeds=x, use_cache=True)
            return int(self.head(out.last_hidden_state[:, -1:]).argmax(-1))
        return self.eager_tower(run)

    def prefill(self, rows, mode=None):
        x = self.random(1, rows, self.text.config.hidden_size)

        def forward(x):
            out = self.text(inputs_embeds=x, use_cache=True)
            return self.head(out.last_hidden_state[:, -1:]).argmax(-1), out.past_key_values
        run = self.compile(forward, mode)
        return self.measure(lambda: run(x))

    def decode(self, rows, mode=None, batch=1):
        from transformers import DynamicCache, StaticCache
        x = self.random(batch, rows, self.text.config.hidden_size)
        ids = self.torch.ones(batch, 1, dtype=self.torch.long, device=self.device)
        if mode is None:
            cache = DynamicCache(config=self.text.config)
        else:
            cache = StaticCache(config=self.text.config, max_cache_len=(rows + 8) // 8 * 8)
        self.text(inputs_embeds=x, past_key_values=cache, use_cache=True)
        if mode is not None and not hasattr(cache.layers[0], "cumulative_length"):
            raise RuntimeError("this transformers' StaticCache cannot be set back")

        def reset():
            if mode is None:
                extra = cache.get_seq_length() - rows
                if extra > 0:
                    cache.crop(-extra)
                return
            for layer in cache.layers:
                layer.cumulative_length.fill_(rows)

        def forward(ids):
            embeds = self.text.get_input_embeddings()(ids)
            out = self.text(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
            return self.head(out.last_hidden_state).argmax(-1)
        run = self.compile(forward, mode)
        return self.measure(lambda: run(ids), reset)


class Deadline:
    """Runs one item after the other, each within its limit, all within the budget."""

    def __init__(self, budget, item):
        self.end, self.item = time.monotonic() + budget, item
        signal.signal(signal.SIGALRM, self.expired)

    @staticmethod
    def expired(*_):
        raise TimeoutError("took too long")

    def run(self, name, function, *args):
        """The result, or None; one line on stderr says how it went."""
        left = min(self.item, self.end - time.monotonic())
        if left < 5:
            print(f"# {name}: left out, no time", file=sys.stderr)
            return None
        begin = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            ms = function(*args)
        except Exception as problem:  # what a compiler raises is not known beforehand
            first = (str(problem).splitlines() or [""])[0]
            print(f"# {name}: {type(problem).__name__}: {first[:200]}", file=sys.stderr)
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(f"# {name}: {ms:.3f} ms, {time.monotonic() - begin:.0f} s", file=sys.stderr)
        return ms


def squint_times(args, names):
    """{name: median ms} and the backend; of a run that failed or took too long what it finished."""
    if not args.squint:
        return {}, None
    command = [args.squint, "bench", "-m", args.squint_model, "--backend", args.squint_backend,
               "--stages", ",".join(names), "--repeat", str(args.repeat), "--format", "csv"]
    try:
        run = subprocess.run(command, capture_output=True, timeout=args.squint_budget)
        out, problem = run.stdout, run.stderr.decode().strip() if run.returncode else None
    except subprocess.TimeoutExpired as expired:
        out, problem = expired.stdout or b"", f"not done after {args.squint_budget:g} s"
    if problem:
        print(f"# squint: {problem}", file=sys.stderr)
    lines = out.decode().splitlines(keepends=True)
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
    return {r["name"]: float(r["median_ms"]) for r in rows}, rows[0]["backend"] if rows else None


def stage_names(shape):
    n = shape["decode"]
    return ([f"vision:{v}" for v in shape["views"]] + ["vision+rows:1"]
            + [f"prefill:{r}" for r in shape["prefill"]]
            + [f"decode:{n}", f"decode:{n}x{shape['batch']}", f"first-token:{shape['keep']}"])


def eager_times(peer, shape, deadline):
    n, batch, keep = shape["decode"], shape["batch"], shape["keep"]
    items = [(f"vision:{v}", peer.vision, v) for v in shape["views"]]
    items += [("vision:1, all layers", peer.vision, 1, None, True),
              ("vision+rows:1", peer.vision_rows, 1)]
    items += [(f"prefill:{r}", peer.prefill, r) for r in shape["prefill"]]
    items += [(f"decode:{n}", peer.decode, n), (f"decode:{n}x{batch}", peer.decode, n, None, batch),
              (f"first-token:{keep}", peer.first_token, keep)]
    return {name: deadline.run(f"eager {name}", *call) for name, *call in items}


def compiled_times(peer, shape, deadline, modes):
    """The fastest mode's time and name for each item that could be compiled in time."""
    items = [("vision:1", peer.vision, 1), (f"decode:{shape['decode']}", peer.decode,
                                            shape["decode"])]
    items += [(f"prefill:{n}", peer.prefill, n) for n in shape["compiled"]]
    out = {}
    for name, function, n in items:
        for mode in modes:
            ms = deadline.run(f"{mode} {name}", function, n, mode)
            peer.torch._dynamo.reset()
            if ms and (name not in out or ms < out[name][0]):
                out[name] = ms, mode
    return out


def print_table(names, ours, eager, compiled):
    print("| work | squint | transformers | compiled | squint / faster peer |")
    print("|---|---|---|---|---|")
    for name in names:
        mine, plain, (fast, mode) = ours.get(name), eager.get(name), compiled.get(name, (None, ""))
        best = min((t for t in (plain, fast) if t), default=None)
        cells = [f"{t:.3f}" if t else "-" for t in (mine, plain)]
        cells.append(f"{fast:.3f} ({mode})" if fast else "-")
        cells.append(f"{mine / best:.2f}" if mine and best else "-")
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", help="the program; without it only transformers is timed")
    parser.add_argument("--squint-model", default="synthetic:llava-1.5-7b")
    parser.add_argument("--squint-backend", default="cuda")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--modes", default="reduce-overhead",
                        help="of torch.compile, with commas; max-autotune-no-cudagraphs is slow")
    parser.add_argument("--skip-compiled", action="store_true")
    parser.add_argument("--squint-budget", type=float, default=120, help="seconds for squint")
    parser.add_argument("--budget", type=float, default=270, help="seconds for transformers")
    parser.add_argument("--item", type=float, default=80, help="seconds for one item")
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU, as a test")
    args = parser.parse_args()

    shape = TINY if args.tiny else FULL
    names = stage_names(shape)
    ours, backend = squint_times(args, names)  # alone on the device
    deadline = Deadline(args.budget, args.item)
    peer = Peer(shape, "cpu" if args.tiny else "cuda", args.repeat)
    eager = eager_times(peer, shape, deadline)
    compiled = {}
    if not args.skip_compiled:
        compiled = compiled_times(peer, shape, deadline, args.modes.split(","))

    import torch
    import transformers
    device = "CPU" if args.tiny else torch.cuda.get_device_name()
    print(f"{device}; torch {torch.__version__}, transformers {transformers.__version__}, "
          f"{peer.text.config._attn_implementation}; squint on {backend or 'nothing'}\n")
    missing = [n for n in names if not eager[n] or (args.squint and n not in ours)]
    names.insert(len(shape["views"]), "vision:1, all layers")
    print_table(names, ours, eager, compiled)
    if missing:
        sys.exit(f"gpu_peers.py: not measured: {', '.join(missing)}")


if __name__ == "__main__":
    main()
