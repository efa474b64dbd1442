"""The Anthropic SDK: a formula as the model, the field `composition`, and a stream.

Install: `pip install anthropic`. Its base URL has no /v1, and fields that it has no parameter for,
`temperature` among them, go into `extra_body`.
"""

import os

from anthropic import Anthropic

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"
ASKED = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
GREEDY = {"temperature": 0}

client = Anthropic(
    base_url=os.environ.get("COMPOSER_BASE_URL", "http://127.0.0.1:8000/v1").removesuffix("/v1"),
    api_key=os.environ.get("COMPOSER_API_KEY", "none"),
)

message = client.messages.create(model=FORMULA, **ASKED, extra_body=GREEDY)
print("model:", message.content[0].text)

message = client.messages.create(
    model="base", **ASKED, extra_body={**GREEDY, "composition": FORMULA}
)
print("composition:", message.content[0].text)
print("rows:", message.composition["rows"])  # fields that the SDK does not know are attributes

with client.messages.stream(model=FORMULA, **ASKED, extra_body=GREEDY) as stream:
    print("stream: ", end="")
    for text in stream.text_stream:
        print(text, end="", flush=True)
    print()
