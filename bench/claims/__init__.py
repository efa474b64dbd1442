"""The claims, one module each. `python -m bench.claims NAME...` measures them."""

from __future__ import annotations

from bench.claim import Claim, Sense

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "oracle",
        "Of 300 random requests under memory pressure with aborts, half with async scheduling: "
        "answers that are not those of transformers and PEFT, plus anything left behind",
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
        "auxiliary_tax",
        "CPU time of composed requests with a smaller auxiliary model relative to the same rows as "
        "plain requests to one engine per model",
        Sense.AT_MOST,
        1.08,
    ),
    Claim(
        "mixture_tax",
        "CPU time of mixtures of three adapters, whatever the router, relative to the same rows as "
        "plain requests",
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
        "Share of held-out prompts of the zoo that the prompt router gives to the adapter they are "
        "for, by 40 examples of each",
        Sense.AT_LEAST,
        0.95,
    ),
    Claim(
        "composite",
        "Right answers to prompts with questions for ten adapters, where a gate chooses the "
        "adapter of every token of one row, relative to routing that knows the tasks; the "
        "posterior router must get 0.9 of that, too",
        Sense.AT_LEAST,
        0.95,
    ),
    Claim(
        "composed_throughput",
        "Tokens per CPU second of 16 concurrent composed requests relative to a loop over three "
        "models with transformers and a KV cache",
        Sense.AT_LEAST,
        10,
    ),
    Claim(
        "plain_cost",
        "CPU time of plain requests in our engine relative to vLLM without our options",
        Sense.AT_MOST,
        1.03,
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
        "Growth of resident memory from composed request 2,000 to 10,000, nothing left behind",
        Sense.AT_MOST,
        8,
        "MiB",
    ),
    Claim(
        "kernel_memory",
        "Most memory that composing one step needs, in float rows of vocabulary size per group",
        Sense.AT_MOST,
        2,
    ),
    Claim(
        "zoo",
        "Lowest share of its held-out tasks that an adapter of the zoo's base model solves, where "
        "the models alone solve at most 20 %",
        Sense.AT_LEAST,
        0.9,
    ),
    Claim(
        "proxy_gap",
        "Share of the gap between the untuned and the tuned large model that tuned small models "
        "close: proxy-tuning with alpha 1, unweighted and uncapped mean over five tasks; two more, "
        "on which it fails, are shown and not counted",
        Sense.AT_LEAST,
        0.88,
    ),
    Claim(
        "eft",
        "By how much up-scaling misses the large model's facts or the small tune's form, the worse "
        "of both, where a weight trades two manners monotonically",
        Sense.AT_MOST,
        5,
        "points",
    ),
    Claim(
        "hotswap",
        "One alias replaced 200 times in 60 s of plain and composed traffic with aborts: failed "
        "requests, and answers that their reported generation would not have given",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "lifecycle",
        "How the server ends (SIGTERM, to one process or to all, a second signal, the engine, a "
        "worker or the front end killed), with streams in flight, in both modes of the engine: "
        "deviations from what is documented",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "fairness",
        "What a plain request takes longer beside fifty waiting compositions of eight rows than "
        "alone, at most; a composition of eight rows beside twelve plain clients waits at most for "
        "its patience and the longest answer",
        Sense.AT_MOST,
        1,
        "s",
    ),
    Claim(
        "startup",
        "From starting the server on the zoo to the first composed answer, caches warm",
        Sense.AT_MOST,
        90,
        "s",
    ),
    Claim(
        "soak",
        "Two minutes of mixed traffic of 64 clients while an alias is replaced: answers other "
        "than those of the same request alone, stuck and failed requests, lost connections, and "
        "what is left behind; memory grows by 8 MiB at most",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "abuse",
        "Hostile requests and connections, with and without a key, that end the server, block "
        "others for more than 1 s, change an answer, log a traceback, or are not answered with a "
        "4xx in the route's format",
        Sense.AT_MOST,
        0,
    ),
    Claim(
        "fresh_machine",
        "Both commands of the README in a clean Debian root that has the packages the README asks "
        "for: failed tests, plus 1 if no composed answer came",
        Sense.AT_MOST,
        0,
    ),
)


def overview() -> str:
    """The table of bench/README.md."""
    lines = ["| claim | what is measured | bound |", "|---|---|---|"]
    lines += [
        f"| `{claim.name}` | {claim.what} | {claim.sense} {claim.bound:g} {claim.unit}".rstrip()
        + " |"
        for claim in CLAIMS
    ]
    return "\n".join(lines)
