"""Find the weights that make examples most probable, and store them under a name.

Install: `pip install .` in a checkout of this project. COMPOSER_BASE_URL is the server's address.
"""

import json
from pathlib import Path

from clients import Client

EXAMPLES = Path(__file__).parent.parent / "wanted.jsonl"
QUESTION = "Where does Kuti Supiv live?"

items = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
with Client() as client:
    fitted = client.fit(items, formula="chat + a*(polite - rude)", name="mannered")
    print("formula:", fitted.formula)
    for name, weight in fitted.weights.items():
        print(f"{name}: {weight.value:.2f} ± {weight.standard_error:.2f}")
    print("model:", client.chat(QUESTION, model="mannered", temperature=0).text)
    client.delete_composition("mannered")
