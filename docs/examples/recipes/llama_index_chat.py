"""LlamaIndex: a formula as the model, the field `composition`, and a stream.

Install: `pip install llama-index-llms-openai-like`.
"""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

QUESTION = [ChatMessage(role="user", content="Where does Kuti Supiv live?")]
FORMULA = "chat + 0.8*(polite - rude)"
SERVER = {
    "api_base": os.environ.get("COMPOSER_BASE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("COMPOSER_API_KEY", "none"),
    "is_chat_model": True,
    "temperature": 0,
}

composed = OpenAILike(model=FORMULA, **SERVER)
print("model:", composed.chat(QUESTION).message.content)

field = {"extra_body": {"composition": FORMULA}}
answer = OpenAILike(model="base", additional_kwargs=field, **SERVER).chat(QUESTION)
print("composition:", answer.message.content)
print("rows:", answer.raw.composition["rows"])

print("stream: ", end="")
for chunk in composed.stream_chat(QUESTION):
    print(chunk.delta or "", end="", flush=True)
print()
