"""lm-evaluation-harness: its client scores texts with a formula as the model.

Install: `pip install "lm-eval[api]" transformers`. Its command takes the same arguments:
`lm_eval --model local-completions --model_args model=FORMULA,base_url=…,tokenizer=… --tasks …`.
TOKENIZER is the name or the folder of the base model.
"""

import os

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

CONTEXT, COMPLETION = "Where does Kuti Supiv live?", " Certainly."
FORMULA = "chat + 0.8*(polite - rude)"
SERVER = os.environ.get("COMPOSER_BASE_URL", "http://127.0.0.1:8000/v1")

os.environ.setdefault("OPENAI_API_KEY", os.environ.get("COMPOSER_API_KEY", "none"))
model = LocalCompletionsAPI(
    model=FORMULA,
    base_url=f"{SERVER}/completions",
    tokenizer=os.environ["TOKENIZER"],
    tokenizer_backend="huggingface",
    max_length=512,
)
request = Instance("loglikelihood", {}, (CONTEXT, COMPLETION), 0)
[(logprob, is_greedy)] = model.loglikelihood([request])
print(f"logprob: {logprob:.4f}")
