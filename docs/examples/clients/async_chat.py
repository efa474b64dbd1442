"""Several compositions at once: the engine batches their rows.

Install: `pip install .` in a checkout of this project. COMPOSER_BASE_URL is the server's address.
"""

import asyncio

from clients import AsyncClient

QUESTION = "Where does Kuti Supiv live?"
FORMULAS = ("chat", "chat + 0.8*(polite - rude)", "chat + 0.8*(rude - polite)")


async def main() -> None:
    async with AsyncClient() as client:
        calls = [client.chat(QUESTION, model=formula, temperature=0) for formula in FORMULAS]
        for formula, answer in zip(FORMULAS, await asyncio.gather(*calls), strict=True):
            print(f"{formula}: {answer.text}")


asyncio.run(main())
