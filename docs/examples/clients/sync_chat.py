"""Chat with a composition, then with one that the server has stored.

Install: `pip install .` in a checkout of this project. COMPOSER_BASE_URL is the server's address.
"""

from clients import Client

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"

with Client() as client:
    answer = client.chat(QUESTION, composition=FORMULA, temperature=0)
    print("composition:", answer.text)

    client.put_composition("courteous", FORMULA)
    print("model:", client.chat(QUESTION, model="courteous", temperature=0).text)
    client.delete_composition("courteous")
