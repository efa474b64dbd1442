"""LangChain: a formula as the model, the field `composition`, a stream, and a chain.

Install: `pip install langchain-openai`.
"""

import os

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"
SERVER = {
    "base_url": os.environ.get("COMPOSER_BASE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("COMPOSER_API_KEY", "none"),
    "temperature": 0,
}

composed = ChatOpenAI(model=FORMULA, **SERVER)
print("model:", composed.invoke(QUESTION).content)

answer = ChatOpenAI(model="base", extra_body={"composition": FORMULA}, **SERVER).invoke(QUESTION)
print("composition:", answer.content)

print("stream: ", end="")
for chunk in composed.stream(QUESTION):
    print(chunk.content, end="", flush=True)
print()

chain = ChatPromptTemplate.from_template("Where does {name} live?") | composed
print("chain:", chain.invoke({"name": "Kuti Supiv"}).content)
