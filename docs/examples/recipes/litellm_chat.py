"""LiteLLM: a formula as the model, the field `composition`, and a stream.

Install: `pip install litellm`. `hosted_vllm/` is its name for servers like this one.
"""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # asks GitHub for prices otherwise

import litellm

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"
ASKED = {
    "messages": [{"role": "user", "content": QUESTION}],
    "api_base": os.environ.get("COMPOSER_BASE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("COMPOSER_API_KEY", "none"),
    "temperature": 0,
}

answer = litellm.completion(model=f"hosted_vllm/{FORMULA}", **ASKED)
print("model:", answer.choices[0].message.content)

answer = litellm.completion(model="hosted_vllm/base", extra_body={"composition": FORMULA}, **ASKED)
print("composition:", answer.choices[0].message.content)
print("rows:", answer.composition["rows"])

print("stream: ", end="")
for chunk in litellm.completion(model=f"hosted_vllm/{FORMULA}", stream=True, **ASKED):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
