"""How probable an answer is under several compositions. Nothing is generated.

Install: `pip install .` in a checkout of this project. COMPOSER_BASE_URL is the server's address.
"""

from clients import Client

ITEMS = [
    {
        "messages": [{"role": "user", "content": "Where does Kuti Supiv live?"}],
        "completion": "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day.",
    }
]
FORMULAS = ["chat", "chat + 0.8*(polite - rude)"]

with Client() as client:
    scored = client.score(ITEMS, compositions=FORMULAS)
    for formula, score in zip(FORMULAS, scored.data[0].compositions, strict=True):
        print(f"{formula}: {score.logprob:.3f} nats")
