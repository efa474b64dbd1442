"""The claims, one module each. `python -m bench.claims NAME...` measures them."""

from __future__ import annotations

from bench.claim import Claim, Sense

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "oracle",
        "300 random requests of all kinds under memory pressure with aborts, half with async "
        "scheduling: answers that differ from those of transformers and PEFT, lost requests, and "
        "leftovers",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "v2_oracle",
        "The same 300 requests on vLLM's V2 model runner, with Triton's interpreter on a CPU: "
        "answers that differ, lost requests, and leftovers",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "compat",
        "What composition overrides, adjusts, reads and imports in vLLM, compared with its source: "
        "names and signatures that the installed release lacks; the other supported releases must "
        "lack none either",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "composition_tax",
        "CPU time of composed requests relative to the same rows as plain requests of vLLM",
        Sense.AT_MOST,
        1.05,
    ),
    Claim(
        "scoring",
        "200 random texts scored by compositions of all kinds under memory pressure with aborts: "
        "largest error of a log-probability against transformers and PEFT, in nats",
        Sense.AT_MOST,
        1e-4,
    ),
    Claim(
        "lm_eval",
        "lm-evaluation-harness on compositions of SmolLM2 in float32 over HTTP (HellaSwag, "
        "TruthfulQA, perplexity, word problems): largest error of a log-likelihood against a loop "
        "of transformers and PEFT, in nats per token; metrics and generated texts must be the same",
        Sense.AT_MOST,
        1e-4,
    ),
    Claim(
        "score_tax",
        "CPU time of scoring texts with compositions of three rows relative to the same rows as "
        "plain requests with prompt_logprobs",
        Sense.AT_MOST,
        1.05,
    ),
    Claim(
        "explain_tax",
        "CPU time of composed requests whose every token is explained, on SmolLM2, relative to the "
        "same requests without",
        Sense.AT_MOST,
        1.10,
    ),
    Claim(
        "fit",
        "20 random weights, each found from 40 answers that its composition has sampled: those "
        "within two standard errors of the true one",
        Sense.AT_LEAST,
        19,
    ),
    Claim(
        "auxiliary_tax",
        "CPU time of composed requests with a smaller auxiliary model relative to the same rows as "
        "plain requests to one engine per model",
        Sense.AT_MOST,
        1.08,
    ),
    Claim(
        "mixture_tax",
        "CPU time of mixtures of three adapters, with the most expensive of four routers, relative "
        "to the same rows as plain requests",
        Sense.AT_MOST,
        1.08,
    ),
    Claim(
        "one_row_tax",
        "CPU time of requests whose adapter a gate chooses for every token, relative to requests "
        "to one adapter each",
        Sense.AT_MOST,
        1.08,
    ),
    Claim(
        "routing",
        "Share of held-out prompts of five tasks that `auto` gives to their adapter, with 40 "
        "examples of each; a choice among 1,000 adapters must take at most 2 ms of CPU time",
        Sense.AT_LEAST,
        0.95,
    ),
    Claim(
        "auto_none",
        "Share of prompts of no adapter's kind that `auto` gives to the base, on SmolLM2 with its "
        "six adapters; of their held-out prompts 0.97 must reach their adapter",
        Sense.AT_LEAST,
        0.9,
    ),
    Claim(
        "posterior_real",
        "Share of held-out prompts that the posterior router's default lets their adapter mostly "
        "answer, on SmolLM2 with its six adapters in bfloat16",
        Sense.AT_LEAST,
        0.9,
    ),
    Claim(
        "composite",
        "Right answers to prompts with questions for ten adapters in one row that a gate routes, "
        "relative to routing that knows the tasks, which must get 80 % right; the posterior router "
        "over ten rows must reach 0.9 of it",
        Sense.AT_LEAST,
        0.95,
    ),
    Claim(
        "composed_throughput",
        "Tokens per CPU second of 16 concurrent composed requests, relative to a loop over three "
        "models with transformers, PEFT and KV caches",
        Sense.AT_LEAST,
        10,
    ),
    Claim(
        "plain_cost",
        "CPU time of plain requests, relative to vLLM without our options",
        Sense.AT_MOST,
        1.03,
    ),
    Claim(
        "row_sharing",
        "CPU time per token of one composed request of three rows on SmolLM2 in bfloat16, relative "
        "to one row of the base, both decoding alone; the same for eight requests is shown",
        Sense.AT_MOST,
        1.3,
    ),
    Claim(
        "sampled_tax",
        "CPU time of a step of composed requests of three rows on SmolLM2 in bfloat16 with "
        "temperature 1 and top_p 0.9, relative to the same greedy: the larger of the ratios for "
        "one request and for eight",
        Sense.AT_MOST,
        1.15,
    ),
    Claim(
        "filter_cost",
        "Share of the top-p filter in the CPU time of a step of 24 composed rows on SmolLM2",
        Sense.AT_MOST,
        3,
        "%",
    ),
    Claim(
        "real_tax",
        "CPU time of composed requests on SmolLM2 in bfloat16, alone and eight at once, relative "
        "to the same rows as plain requests of vLLM",
        Sense.AT_MOST,
        1.05,
    ),
    Claim(
        "real_oracle",
        "60 composed answers of ten methods on SmolLM2: those that differ from the answers of "
        "transformers and PEFT",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "real_throughput",
        "Tokens per CPU second of 16 concurrent composed requests on SmolLM2, relative to a loop "
        "over three merged models with transformers and KV caches",
        Sense.AT_LEAST,
        10,
    ),
    Claim(
        "adapter_scale",
        "Tokens per CPU second of 64 clients that use 64 of 1,000 adapters, relative to 64 clients "
        "that use the only 8",
        Sense.AT_LEAST,
        0.9,
    ),
    Claim(
        "memory",
        "Growth of resident memory from composed request 2,000 to 10,000; the engine must then be "
        "empty",
        Sense.AT_MOST,
        8,
        "MiB",
    ),
    Claim(
        "kernel_memory",
        "Peak memory of composing one step, in float rows of vocabulary size per gang",
        Sense.AT_MOST,
        2,
    ),
    Claim(
        "zoo",
        "Lowest accuracy of an adapter of the zoo's base model on its own held-out task; the "
        "models alone may solve at most 20 %",
        Sense.AT_LEAST,
        0.9,
    ),
    Claim(
        "proxy_gap",
        "Share of the gap to a tuned large model that tuned small models close by proxy-tuning "
        "with alpha 1: unweighted, uncapped mean over five tasks; two more, on which it fails, are "
        "shown and not counted",
        Sense.AT_LEAST,
        0.88,
    ),
    Claim(
        "eft",
        "Points by which up-scaling of manners misses the large model's facts or the small tune's "
        "form, whichever is worse; a weight must trade two manners monotonically",
        Sense.AT_MOST,
        5,
        "points",
    ),
    Claim(
        "context_faith",
        "Share of contexts against what SmolLM2 in bfloat16 knows, five for each of at least 100 "
        "facts, that context-aware decoding obeys: the context's answer, not the known one, no "
        "denial; the model alone may obey at most 0.3 of them. It holds for one form: `Remember: "
        "...` at the end of the system message, which the model alone obeys least of five forms on "
        "development facts",
        Sense.AT_LEAST,
        0.6,
    ),
    Claim(
        "sentiment",
        "Mean of VADER's score, from -1 to 1, of what SmolLM2 in bfloat16 writes about films, "
        "sampled from `base + alpha*(positive - negative)` with alpha 2 after neutral openings; it "
        "may be at most 0.25 at alpha 0 and must rise from alpha -2 to 2, at every step within its "
        "standard error",
        Sense.AT_LEAST,
        0.5,
    ),
    Claim(
        "hotswap",
        "One alias is replaced 200 times in 60 s of plain and composed traffic with aborts: failed "
        "requests, and answers that their reported generation would not have given",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "lifecycle",
        "The end of the server with streams in flight (SIGTERM to one process or to all, a second "
        "signal, the death of the engine, a worker or the front end), in both modes of the engine: "
        "deviations from docs/operating.md",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "fairness",
        "Largest delay of a plain request beside fifty clients that keep asking for compositions "
        "of eight rows; such a composition beside twelve plain clients may wait for its patience "
        "and the longest answer",
        Sense.AT_MOST,
        1,
        "s",
    ),
    Claim(
        "startup",
        "Seconds from starting the server to the first composed answer, with warm caches",
        Sense.AT_MOST,
        90,
        "s",
    ),
    Claim(
        "soak",
        "Two minutes of mixed traffic of 64 clients while an alias is replaced: answers that "
        "differ from those of the same request alone, stuck and failed requests, lost connections, "
        "and leftovers; memory may grow by 8 MiB",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "abuse",
        "Hostile requests, publications and connections, with and without a key, that end the "
        "server, block others for more than 1 s, change an answer, log a traceback, or are not "
        "answered 4xx in the route's format",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "fresh_machine",
        "`make serve` and `make test` in a clean Debian root with the packages that the README "
        "lists: failed tests, plus 1 if no composed answer came; the first must come within 4 "
        "minutes, downloads included",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "image",
        "The CPU image, built on a clean Debian without a Docker daemon and run as its user: "
        "failed checks of its health check, a composed answer, left build tools, and its end",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "scale_out",
        "Two servers with one store behind vllm-router, of which one is restarted and then one is "
        "killed under traffic: failed checks of what docs/operating.md promises there, plus "
        "requests lost before their first token",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "playground",
        "The playground in Chromium: failed tests of its paths, accessibility and requests to "
        "other hosts; its first paint must take less than 1 s",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "page_size",
        "What a browser loads for the playground, its libraries included",
        Sense.AT_MOST,
        150,
        "KB",
    ),
)


def overview() -> str:
    """Return the table of bench/README.md."""
    lines = ["| claim | what is measured | bound |", "|---|---|---|"]
    lines += [
        f"| `{claim.name}` | {claim.what} | {claim.sense} {claim.bound:g} {claim.unit}".rstrip()
        + " |"
        for claim in CLAIMS
    ]
    return "\n".join(lines)
