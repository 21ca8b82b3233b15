"""llama.cpp and transformers behind one small interface, so that both are asked the same things.

Times are in milliseconds: a list of `repeat` values after one run to warm up.
"""
import ctypes
import time

import numpy as np

SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. The assistant "
          "gives helpful, detailed, and polite answers to the human's questions.")


def timed(run, repeat):
    run()
    out = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        out.append(1e3 * (time.perf_counter() - start))
    return out


class LlamaCpp:
    """A GGUF pair in llama.cpp, through llama-cpp-python's C bindings."""

    def __init__(self, text, mmproj, threads, n_ctx=2048):
        import llama_cpp
        from llama_cpp import mtmd_cpp
        self.lib, self.mtmd = llama_cpp, mtmd_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *a: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        mtmd_cpp.mtmd_log_set(self.quiet, ctypes.c_void_p(0))
        mtmd_cpp.mtmd_helper_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(text).encode(), params)
        if not self.model:
            raise SystemExit(f"{text}: llama.cpp cannot load it")
        cp = llama_cpp.llama_context_default_params()
        cp.n_ctx = cp.n_batch = cp.n_ubatch = n_ctx
        cp.n_threads = cp.n_threads_batch = threads
        self.ctx = llama_cpp.llama_init_from_model(self.model, cp)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        mp = mtmd_cpp.mtmd_context_params_default()
        mp.use_gpu, mp.print_timings, mp.n_threads = False, False, threads
        self.vision_ctx = mtmd_cpp.mtmd_init_from_file(str(mmproj).encode(), self.model, mp)
        if not self.vision_ctx:
            raise SystemExit(f"{mmproj}: llama.cpp cannot load it")

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)

    def feed(self, ids):
        array = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.ctx, self.lib.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")
        return self.lib.llama_get_logits_ith(self.ctx, -1)

    def time_prefill(self, rows, repeat):
        ids = [5 + i * 7 % 1000 for i in range(rows)]

        def run():
            self.clear()
            self.feed(ids)
        return timed(run, repeat)

    def time_decode(self, rows, repeat):
        self.clear()
        self.feed([5 + i * 7 % 1000 for i in range(rows)])
        memory = self.lib.llama_get_memory(self.ctx)

        def run():
            self.feed([77])
            self.lib.llama_memory_seq_rm(memory, 0, rows, -1)
        return timed(run, repeat)

    def chunks(self, prompt, image):
        m = self.mtmd
        bitmap = m.mtmd_helper_bitmap_init_from_file(self.vision_ctx, str(image).encode(), False)
        chunks = m.mtmd_input_chunks_init()
        raw = prompt.encode()
        text = m.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
        bitmaps = (m.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if m.mtmd_tokenize(self.vision_ctx, chunks, ctypes.byref(text), bitmaps, 1):
            raise RuntimeError("mtmd_tokenize failed")
        m.mtmd_bitmap_free(bitmap)
        return chunks

    def time_vision(self, image, repeat):
        m = self.mtmd
        chunks = self.chunks(m.mtmd_default_marker().decode(), image)
        all_chunks = [m.mtmd_input_chunks_get(chunks, i)
                      for i in range(m.mtmd_input_chunks_size(chunks))]
        picture = [c for c in all_chunks if m.mtmd_input_chunk_get_type(c) == 1][0]

        def run():
            if m.mtmd_encode_chunk(self.vision_ctx, picture):
                raise RuntimeError("mtmd_encode_chunk failed")
        out = timed(run, repeat)
        m.mtmd_input_chunks_free(chunks)
        return out

    def ask(self, image, question, max_tokens=128):
        """The greedy answer under the vicuna_v1 prompt."""
        m = self.mtmd
        marker = m.mtmd_default_marker().decode()
        chunks = self.chunks(f"{SYSTEM} USER: {marker}\n{question} ASSISTANT:", image)
        self.clear()
        past = self.lib.llama_pos(0)
        if m.mtmd_helper_eval_chunks(self.vision_ctx, self.ctx, chunks, 0, 0, 2048, True,
                                     ctypes.byref(past)):
            raise RuntimeError("mtmd_helper_eval_chunks failed")
        m.mtmd_input_chunks_free(chunks)
        logits = self.lib.llama_get_logits_ith(self.ctx, -1)
        ids = []
        while len(ids) < max_tokens:
            best = int(np.ctypeslib.as_array(logits, (self.n_vocab,)).argmax())
            if self.lib.llama_vocab_is_eog(self.vocab, best):
                break
            ids.append(best)
            logits = self.feed([best])
        return self.text(ids)

    def text(self, ids):
        array = (self.lib.llama_token * max(1, len(ids)))(*ids)
        buffer = ctypes.create_string_buffer(64 * len(ids) + 64)
        n = self.lib.llama_detokenize(self.vocab, array, len(ids), buffer, len(buffer), True, False)
        return buffer.raw[:max(0, n)].decode("utf-8", "replace").strip()


class Transformers:
    """A Hugging Face checkpoint in transformers, bf16, its fastest attention."""

    def __init__(self, path, threads, n_vision_layers=None):
        import torch
        from transformers import LlavaForConditionalGeneration
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        llava = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.bfloat16).eval()
        self.llava = llava
        self.vision = llava.model.vision_tower
        encoder = getattr(self.vision, "vision_model", self.vision).encoder
        if n_vision_layers:  # the layers behind the features would run for nothing
            encoder.layers = encoder.layers[:n_vision_layers]
        self.text = llava.model.language_model
        self.head = llava.lm_head

    def embeds(self, rows):
        return self.torch.randn(1, rows, self.text.config.hidden_size).bfloat16()

    def time_vision(self, repeat):
        pixels = self.torch.randn(1, 3, 336, 336).bfloat16()
        return timed(lambda: self.vision(pixel_values=pixels), repeat)

    def time_prefill(self, rows, repeat):
        x = self.embeds(rows)

        def run():
            out = self.text(inputs_embeds=x, use_cache=True)
            self.head(out.last_hidden_state[:, -1:])
        return timed(run, repeat)

    def time_decode(self, rows, repeat):
        cache = self.text(inputs_embeds=self.embeds(rows), use_cache=True).past_key_values
        x = self.embeds(1)

        def run():
            out = self.text(inputs_embeds=x, past_key_values=cache, use_cache=True)
            self.head(out.last_hidden_state)
            cache.crop(rows)
        return timed(run, repeat)

    def time_answer(self, image, ids, repeat, keep=None):
        """Picture file to the last token, greedy; ids is the prompt with one image token -200.
        With keep, the FasterVLM choice: the tokens that CLS looks at most in layer -2."""
        from PIL import Image
        from transformers import CLIPImageProcessorPil
        torch = self.torch
        processor = CLIPImageProcessorPil(size={"shortest_edge": 336},
                                          crop_size={"height": 336, "width": 336})
        at = ids.index(-200)
        before, after = (torch.tensor([part]) for part in (ids[:at], ids[at + 1:]))
        embed = self.text.get_input_embeddings()
        if keep is not None:  # fused attention keeps no scores
            self.vision.set_attn_implementation("eager")
        answer = []

        def run():
            pixels = processor(Image.open(image).convert("RGB"),
                               return_tensors="pt")["pixel_values"].bfloat16()
            out = self.vision(pixel_values=pixels, output_hidden_states=True,
                              output_attentions=keep is not None)
            features = out.hidden_states[-2][:, 1:]
            if keep is not None:
                score = out.attentions[-2][:, :, 0, 1:].float().mean(1)
                rows = score.topk(keep, 1)[1].sort(1)[0]
                features = features[:, rows[0]]
            picture = self.llava.model.multi_modal_projector(features)
            x = torch.cat([embed(before), picture, embed(after)], 1)
            cache = None
            answer.clear()
            while len(answer) < 128:
                step = self.text(inputs_embeds=x, past_key_values=cache, use_cache=True)
                cache = step.past_key_values
                best = int(self.head(step.last_hidden_state[:, -1:])[0, 0].argmax())
                if best == self.text.config.eos_token_id:
                    break
                answer.append(best)
                x = embed(torch.tensor([[best]]))
        return timed(run, repeat), len(answer)
