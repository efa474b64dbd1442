"""The OpenAI SDK: a formula as the model, the field `composition`, a stream, and Responses.

Install: `pip install openai`.
"""

import os

from openai import OpenAI

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"
MESSAGES = [{"role": "user", "content": QUESTION}]

client = OpenAI(
    base_url=os.environ.get("COMPOSER_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("COMPOSER_API_KEY", "none"),
)

answer = client.chat.completions.create(model=FORMULA, messages=MESSAGES, temperature=0)
print("model:", answer.choices[0].message.content)

answer = client.chat.completions.create(
    model="base", messages=MESSAGES, temperature=0, extra_body={"composition": FORMULA}
)
print("composition:", answer.choices[0].message.content)
print("rows:", answer.composition["rows"])  # fields that the SDK does not know are attributes

stream = client.chat.completions.create(
    model=FORMULA, messages=MESSAGES, temperature=0, stream=True
)
print("stream: ", end="")
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

response = client.responses.create(
    model="base", input=QUESTION, temperature=0, extra_body={"composition": FORMULA}
)
print("responses:", response.output_text)
