"""Print an answer as it comes, and of how many rows. Leaving the loop stops the server's work.

Install: `pip install .` in a checkout of this project. COMPOSER_BASE_URL is the server's address.
"""

from clients import Client

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"

with Client() as client:
    print("stream: ", end="")
    for chunk in client.stream_chat(QUESTION, composition=FORMULA, temperature=0):
        print(chunk.text, end="", flush=True)
    print()
    if chunk.composition is not None:
        print("rows:", chunk.composition.rows)
